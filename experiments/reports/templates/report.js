"use strict";
// Sorts a table by the column whose name was pressed; what has no value comes last.
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const column = head.cellIndex;
    const body = head.closest("table").tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, value: row.cells[column].dataset.value }));
    const numeric = rows.every(({ value }) => value === "nan" || !Number.isNaN(Number(value)));
    const first = numeric ? "descending" : "ascending";
    const second = numeric ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? second : first;
    const sign = order === "ascending" ? 1 : -1;
    rows.sort((one, other) => {
      if (!numeric) return sign * one.value.localeCompare(other.value);
      const gaps = (one.value === "nan") - (other.value === "nan");
      return gaps || (one.value === "nan" ? 0 : sign * (one.value - other.value));
    });
    for (const each of head.parentElement.cells) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    body.append(...rows.map(({ row }) => row));
  });
}
