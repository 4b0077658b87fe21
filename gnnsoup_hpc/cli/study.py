"""`gnnsoup study`: all runs of a study, and what they say together."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass, field, replace
from statistics import mean
from typing import Any

from gnnsoup_hpc.analysis.report.contents import read_contents
from gnnsoup_hpc.analysis.study import RunResult, StudyResults
from gnnsoup_hpc.cli.soup import soup
from gnnsoup_hpc.cli.train import train
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.study import Study, StudyRun, follow, read_study
from gnnsoup_hpc.errors import IngredientsError, Interrupted, JobError, Preempted, SoupError
from gnnsoup_hpc.models.jobs import load_job
from gnnsoup_hpc.runtime import leases, status_files
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.leases import LeaseMonitor
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.utils.hashing import fingerprint

POLL_SECONDS = 1.0
Block = tuple[StudyRun, ...]  # the runs of a setting and a seed; the first has the ingredients that others go by


@dataclass
class StudyRunner:
    """A rank's work at a study. Each rank takes whole blocks by leases, and makes their runs as if it were alone."""

    study: Study
    here: RankInfo
    offline: bool
    log: Log
    failed: dict[str, str] = field(default_factory=dict)  # why, by the names of runs
    seconds: list[float] = field(default_factory=list)  # of runs that were made here

    def check(self) -> None:
        """See that every run has a job. Raises: JobError naming the run."""
        for block in self.study.runs:
            for run in block:
                try:
                    self._make_job(block, run)
                except JobError as error:
                    raise JobError(f"the study's run {run.name}: {error}") from None

    def run_all(self) -> dict[str, RunResult]:
        """Make what is missing, here or elsewhere; the results of all runs that did not fail, by their names."""
        monitor = LeaseMonitor()
        while left := [block for block in self.study.runs if not self._is_over(block)]:
            held = 0
            for number, block in enumerate(left):
                place = self.study.root / "leases" / f"{block[0].name}.lease"
                with leases.hold(place, watch=monitor) as lease:
                    if lease is not None:
                        for run in block:
                            self._make(block, run, len(left) - number)
                    held += lease is None
            if held == len(left):
                time.sleep(POLL_SECONDS)
        return self.read()

    def read(self) -> dict[str, RunResult]:
        """The results that are there, by the names of runs."""
        every = ((run.name, self._read(block, run)) for block in self.study.runs for run in block)
        return {name: result for name, result in every if result is not None}

    def _is_over(self, block: Block) -> bool:
        """Whether all runs of a block are done, or cannot be."""
        return all(self._read(block, run) or self._cannot(block, run) for run in block)

    def _cannot(self, block: Block, run: StudyRun) -> bool:
        """Whether a run failed here, or goes by one that did."""
        return run.name in self.failed or (run.follows and block[0].name in self.failed)

    def _make_job(self, block: Block, run: StudyRun) -> Job:
        """The job of a run, which may go by the first of its block; where that is not done, as if it took one epoch."""
        tables = run.tables
        if run.follows:
            first = self._read(block, block[0])
            base = load_job({**block[0].tables, "name": block[0].name})
            tables = follow(run, base, first.best_epoch if first else 1)
        return load_job({**tables, "name": run.name})

    def _read(self, block: Block, run: StudyRun) -> RunResult | None:
        """The result of a run, if the job that made it is that of now."""
        note = status_files.read(self.study.note(run))
        is_there = note.get("job") == _identify(self._make_job(block, run))
        return RunResult.read(note["result"]) if is_there else None

    def _make(self, block: Block, run: StudyRun, left: int) -> None:
        """Make a run that is not done, and keep its result, or why it failed."""
        if self._read(block, run) or self._cannot(block, run):
            return
        start, job, alone = time.perf_counter(), self._make_job(block, run), replace(self.here, rank=0, size=1)
        try:
            train(job, alone, self.offline, souping=True, quiet=True)
            soup(job, alone, form="nothing")
            result = RunResult.of(read_contents(RunDir.of(job).root))
        except (Preempted, Interrupted):
            raise
        except SoupError as error:
            self.failed[run.name] = " ".join(str(error).split())
            self.log.say(f"study: {run.name} failed: {self.failed[run.name]}")
            return
        status_files.write(self.study.note(run), {"job": _identify(job), "result": asdict(result)})
        self.seconds.append(time.perf_counter() - start)
        self.log.say(f"study: {run.name}: {result.show_line(run.alone)} ({self.seconds[-1]:.0f} s{self._guess(left)})")

    def _guess(self, left: int) -> str:
        """About how long the rest will take, in words. left: blocks that were not done before this one."""
        hours = mean(self.seconds) * left * len(self.study.runs[0]) / self.here.size / 3600.0
        return f"; about {hours:.1f} h left" if hours >= 0.1 else ""


def _identify(job: Job) -> str:
    """What the result of a run is a function of; fields that are added to jobs later change it where they are set."""
    places: dict[str, Any] = {"name": True, "runs": True, "machine": True, "graph": {"root"}}
    return fingerprint(job.model_dump(mode="json", exclude=places, exclude_defaults=True))


def run(arguments: argparse.Namespace, here: RankInfo) -> None:
    """Make all runs of the study, and print what they say together.

    Raises: IngredientsError where some could not be made, once all others are there.
    """
    study, log = read_study(arguments.study, arguments.set), Log(here.prefix, False, here.stop)
    runner = StudyRunner(study, here, arguments.offline, log)
    runner.check()
    count, hours = sum(map(len, study.runs)), study.file.hours
    if here.rank == 0:
        about = f", about {hours:g} hours, as the file says" if hours else ""
        log.say(f"study: {study.file.name}: {count} runs, {len(runner.read())} of them done{about}")
    found = {} if arguments.show else runner.run_all()
    if here.rank > 0:
        return
    results = StudyResults(study, found or runner.read())
    if results.found:
        results.write()
    print(f"\n{results.show()}" + (f"\n-> {study.path}" if results.found else ""), flush=True)
    if runner.failed:
        first = next(iter(runner.failed))
        raise IngredientsError(
            f"{len(runner.failed)} of {count} runs of the study failed, the others are there:"
            f" {', '.join(runner.failed)}. The first: {runner.failed[first]}. The same command tries them again"
        )
