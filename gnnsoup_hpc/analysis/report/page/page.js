"use strict";
// Sorts a table by the column whose head is pressed: numbers by value, what is not known last, equals as they were.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, table = head.closest("table"), body = table.tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending", at = head.cellIndex, number = head.dataset.number === "1";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => row.cells[at].dataset.value;
    const compare = (a, b) => number ? Number(a) - Number(b) : a < b ? -1 : a > b ? 1 : 0;
    const rows = [...body.rows].sort((one, two) => {
      const a = value(one), b = value(two);
      if (a === "" || b === "") return (a === "") - (b === "");
      return up ? compare(a, b) : compare(b, a);
    });
    body.append(...rows);
  });
}
for (const box of document.querySelectorAll("input.columns")) {
  box.addEventListener("change", () => {
    document.getElementById(box.dataset.table).classList.toggle("few", !box.checked);
  });
}
const theme = document.getElementById("theme");
theme.addEventListener("click", () => {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = (root.dataset.theme || (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
});
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});
