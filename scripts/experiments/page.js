// Click on a column's head: sort by it, again: the other way round. Rows of floors stay at the end.
for (const table of document.querySelectorAll("table.results")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  for (const [column, head] of heads.entries()) {
    if (!head.dataset.sort) continue;
    head.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].filter(row => !row.classList.contains("floor"));
      const floors = [...body.rows].filter(row => row.classList.contains("floor"));
      const value = row => row.cells[column].dataset.value;
      const number = text => (text === "" ? Infinity : Number(text));
      rows.sort((one, other) => {
        const [a, b] = [value(one), value(other)];
        if (head.dataset.sort === "text") return a.localeCompare(b) * (down ? -1 : 1);
        if (a === "" || b === "") return number(a) - number(b) || 0; // what is missing comes last either way
        return (number(a) - number(b)) * (down ? -1 : 1);
      });
      body.append(...rows, ...floors);
    });
  }
}
