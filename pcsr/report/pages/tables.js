"use strict";
// Tables: a click on a heading sorts by it, once up, once down, then as it was. Heads of tables that
// fit stay in sight; of those that scroll, the first column and the knob beside it.

/** Return the value to sort by: the number that a cell begins with, or its text; nothing goes last. */
function valueOf(row, column, numeric) {
  const text = row.cells[column].textContent.trim();
  if (!numeric) return text || null;
  const number = Number.parseFloat(text);
  return Number.isNaN(number) ? null : number;
}

function compare(a, b, down) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
  return down ? -order : order;
}

/** Return the headings of a table by column; those of a second row fill the gaps of the first. */
function leavesOf(table) {
  const [first, second] = table.tHead.rows;
  const below = second ? [...second.cells] : [];
  return [...first.cells].flatMap((cell) => (cell.colSpan > 1 ? below.splice(0, cell.colSpan) : [cell]));
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const leaves = leavesOf(table);
  leaves.forEach((leaf, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...leaf.childNodes);
    leaf.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "" }[leaf.ariaSort] ?? "ascending";
      for (const other of leaves) other.removeAttribute("aria-sort");
      if (next) leaf.ariaSort = next;
      const numeric = leaf.classList.contains("right");
      const sorted = rows.map((row) => [valueOf(row, column, numeric), row]);
      if (next) sorted.sort(([a], [b]) => compare(a, b, next === "descending"));
      body.append(...sorted.map(([, row]) => row));
    });
  });
}

/** Keep the knob in sight, which tells the rows of a method apart, where it is the second column. */
function pinKnob(table) {
  const knob = leavesOf(table)[1];
  if (knob?.textContent !== "Knob") return;
  const left = `${table.rows[0].cells[0].offsetWidth}px`;
  for (const cell of [knob, ...[...table.tBodies[0].rows].map((row) => row.cells[1])]) {
    cell.classList.add("pinned");
    cell.style.left = left;
  }
}

for (const box of document.querySelectorAll(".table")) {
  const table = box.firstElementChild;
  const numeric = table.tHead.querySelector(".right");
  if (numeric && table.tBodies[0]?.rows.length > 1) makeSortable(table);
  new ResizeObserver(() => {
    pinKnob(table);
    box.classList.toggle("fits", table.offsetWidth <= box.clientWidth);
  }).observe(box);
}
