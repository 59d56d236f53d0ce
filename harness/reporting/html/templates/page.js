"use strict";
(() => {
  // Storage and clipboard may be denied, or not there at all: then nothing is kept, and nothing is wrong.
  const attempt = (what, otherwise) => {
    try {
      return what();
    } catch {
      return otherwise;
    }
  };
  const key = (id) => `harness:${location.pathname}:${id}`;
  const kept = (id) => attempt(() => JSON.parse(sessionStorage.getItem(key(id))) || {}, {});
  const keep = (id, state) => attempt(() => sessionStorage.setItem(key(id), JSON.stringify(state)));
  const status = document.getElementById("status");
  let silence = 0;
  const say = (text) => {
    status.textContent = text;
    clearTimeout(silence);
    silence = setTimeout(() => (status.textContent = ""), 3000);
  };

  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.textContent.trim();
    const order = cell.dataset.order;
    if (order !== undefined) return Number(order);
    const number = /^-?[\d.,]+ ?%?$/.test(text) ? Number.parseFloat(text.replaceAll(",", "")) : Number.NaN;
    return text === "" ? null : Number.isNaN(number) ? text : number;
  };
  const compare = (one, other) =>
    typeof one === "number" && typeof other === "number"
      ? one - other
      : String(one).localeCompare(String(other), "en", { numeric: true });

  // Sorts and filters one table; the state is kept for this tab.
  const equip = (table) => {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    const original = [...body.rows];
    const texts = new Map(original.map((row) => [row, row.textContent.toLowerCase()]));
    const state = { column: -1, down: false, words: "", wrong: false, ...kept(table.id) };
    const tools = document.querySelector(`.tools[data-for="${table.id}"]`);
    const search = tools.querySelector("input[type=search]");
    const check = tools.querySelector("input[type=checkbox]");
    const output = tools.querySelector("output");

    const sort = () => {
      heads.forEach((head, number) => {
        if (number === state.column) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      if (!(state.column >= 0 && state.column < heads.length)) return;
      const values = new Map(original.map((row) => [row, value(row, state.column)]));
      const there = original.filter((row) => values.get(row) !== null);
      there.sort((one, other) => compare(values.get(one), values.get(other)) * (state.down ? -1 : 1));
      body.append(...there, ...original.filter((row) => values.get(row) === null)); // what is empty is last
    };
    const filter = () => {
      const words = String(state.words).toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of original) {
        const fits = words.every((word) => texts.get(row).includes(word));
        row.hidden = !(fits && (!state.wrong || row.classList.contains("wrong")));
        shown += !row.hidden;
      }
      output.textContent = `${shown} of ${original.length} shown`;
    };
    heads.forEach((head, number) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        state.down = state.column === number && !state.down;
        state.column = number;
        sort();
        keep(table.id, state);
      });
    });
    search.value = state.words;
    search.addEventListener("input", () => {
      state.words = search.value;
      filter();
      keep(table.id, state);
    });
    if (check) {
      check.checked = state.wrong;
      check.addEventListener("change", () => {
        state.wrong = check.checked;
        filter();
        keep(table.id, state);
      });
    }
    tools.hidden = false;
    sort();
    filter();
    // A link to a row that is filtered away shows it.
    return (row) => {
      if (!row.hidden || !original.includes(row)) return;
      state.words = search.value = "";
      state.wrong = false;
      if (check) check.checked = false;
      filter();
    };
  };
  const reveals = [...document.querySelectorAll("table.sortable")].map(equip);

  const follow = () => {
    const id = attempt(() => decodeURIComponent(location.hash.slice(1)), "");
    const row = id.startsWith("case=") && document.getElementById(id);
    if (!row) return;
    for (const reveal of reveals) reveal(row);
    row.scrollIntoView({ block: "center" });
  };
  addEventListener("hashchange", follow);
  follow();
  document.addEventListener("click", (event) => {
    const link = event.target instanceof Element && event.target.closest('tbody th a[href^="#case="]');
    if (!link) return;
    const copied = attempt(() => navigator.clipboard.writeText(link.href), undefined);
    const otherwise = () => say("The address bar has the link to this case.");
    if (copied) copied.then(() => say("Link to this case copied."), otherwise);
    else otherwise();
  });

  // Charts one after the other, so that the page can be read and scrolled meanwhile.
  const specs = document.getElementById("specs");
  const draw = async () => {
    const known = JSON.parse(specs.textContent);
    for (const place of document.querySelectorAll("[data-chart]")) {
      try {
        await vegaEmbed(place, known[place.dataset.chart], {
          actions: false,
          ast: true, // without it Vega makes functions of texts, which the policy forbids
          defaultStyle: false,
          renderer: "svg",
          tooltip: { disableDefaultStyle: true },
        });
        place.querySelector("svg").setAttribute("aria-hidden", "true"); // what is around it has a text, and a table
      } catch (error) {
        place.textContent = "This chart cannot be drawn here; the table has its values.";
        console.error(error);
      }
      await new Promise((resolve) => setTimeout(resolve));
    }
    document.documentElement.dataset.drawn = "yes";
  };
  // The page is there first: tables can be read, links followed.
  if (specs && typeof vegaEmbed === "function") addEventListener("load", () => setTimeout(draw));
  else document.documentElement.dataset.drawn = "yes";
})();
