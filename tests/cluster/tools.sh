#!/bin/bash
# Install what tests/cluster and tests of pages want, on Debian and its kin, as root; elsewhere say why not, and leave it at that.
set -euo pipefail
packages=(slurm-wlm munge openmpi-bin libopenmpi-dev shellcheck chromium)
missing=()
for package in "${packages[@]}"; do
  dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  echo "cluster-tools: all there: ${packages[*]}"
elif [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
  echo "cluster-tools: ${missing[*]} not installed, for that wants root and apt-get; their tests will be skipped"
else
  echo "cluster-tools: apt-get install ${missing[*]}"
  apt-get update -qq
  # No daemon is to start: the tests start their own, and only for as long as they run.
  printf '#!/bin/sh\nexit 101\n' > /tmp/policy-rc.d.$$
  [[ -e /usr/sbin/policy-rc.d ]] || { install -m 755 /tmp/policy-rc.d.$$ /usr/sbin/policy-rc.d; trap 'rm -f /usr/sbin/policy-rc.d' EXIT; }
  rm -f /tmp/policy-rc.d.$$
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
