
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dialog = document.getElementById("detail");
  const form = document.querySelector(".filters");
  const sections = [...document.querySelectorAll("details.kernel")];
  const ORACLE = "oracle";

  // Building: text goes in as text, never as HTML.
  const fill = (node, attributes, children) => {
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value !== null) node.setAttribute(key, value);
    }
    node.append(...children.flat().filter((c) => c !== null));
    return node;
  };
  const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const s = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  // A result by name.
  const text = (i) => data.texts[i];
  const result = (k, row, side) => {
    const r = data.kernels[k]?.[1][row]?.[1][side];
    if (!r) return null;
    const [status, reason, metric, error, tolerance, worst, histogram, ways, findings, timing] = r;
    const [cls, mark, name, meaning, good] = data.statuses[status];
    return { cls, mark, name, meaning, good, reason: text(reason), metric: metric === null ? null : text(metric),
      error, tolerance, worst, histogram, ways, findings, timing };
  };
  const short = (x) => (x === null ? "none" : x === 0 ? "0" : Number.isInteger(x) && Math.abs(x) < 1e5 ? String(x)
    : typeof x === "string" ? x : x.toExponential(2).replace("e+", "e"));
  const percent = (x) => (x > 0 && x < 1e-4 ? "less than 0.01 %" : `${Number((x * 100).toPrecision(2))} %`);
  const uses = (x) => (x >= 10 ? `${Number(x.toPrecision(2)).toLocaleString("en")} times as much` : `${percent(x)} of it`);

  // Pictures, in units that are a pixel on a phone.
  const WIDTH = 360;
  const scale = (values) => {
    const logs = values.filter((x) => x > 0).map(Math.log10);
    const low = Math.floor(Math.min(...logs) - 0.2), high = Math.ceil(Math.max(...logs) + 0.2);
    return (x) => 8 + (WIDTH - 16) * (x > 0 ? (Math.log10(x) - low) / (high - low) : 0);
  };
  // The errors of all ways, on a logarithmic axis with the tolerance.
  const errors = (rows, tolerance) => {
    if (!(tolerance > 0)) return null;
    const x = scale([tolerance, ...rows.map(([, e]) => e)]);
    const height = 32 * rows.length + 22;
    const at = x(tolerance);
    return s("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": "errors and tolerance, logarithmic" },
      rows.map(([way, e], i) => {
        const y = 32 * i + 24, over = e > tolerance;
        return s("g", {}, s("line", { class: "track", x1: 8, x2: WIDTH - 8, y1: y, y2: y }),
          s("line", { class: "limit", x1: at, x2: at, y1: y - 7, y2: y + 7 }),
          over ? s("rect", { class: "over", x: x(e) - 5, y: y - 5, width: 10, height: 10 })
            : s("circle", { class: "bar", cx: x(e), cy: y, r: 5 }),
          s("text", { x: 8, y: y - 9 }, way ? `${way}: ${short(e)}` : short(e)));
      }),
      s("text", { x: at, y: height - 3, "text-anchor": at > WIDTH - 70 ? "end" : at < 70 ? "start" : "middle" }, `tolerance ${short(tolerance)}`));
  };
  // Bars on a logarithmic scale: one wrong element of a million must show.
  const histogram = ([labels, ...pairs]) => {
    const names = data.labels[labels];
    const counts = names.map(() => 0);
    for (let i = 0; i < pairs.length; i += 2) counts[pairs[i]] = pairs[i + 1];
    const used = counts.map((c, i) => (c ? i : -1)).filter((i) => i >= 0);
    if (!used.length) return null;
    const first = Math.max(0, used[0] - 1), last = Math.min(names.length - 1, used[used.length - 1] + 1);
    const left = 12 + 7 * Math.max(...names.map((n) => n.length));
    const most = Math.log10(Math.max(...counts) + 1);
    const bars = [];
    for (let i = first; i <= last; i += 1) {
      const y = 20 * (i - first), width = ((WIDTH - 60 - left) * Math.log10(counts[i] + 1)) / most;
      bars.push(s("text", { x: left - 8, y: y + 14, "text-anchor": "end" }, names[i]),
        s("rect", { class: "bar", x: left, y: y + 3, width, height: 14 }),
        s("text", { x: left + width + 6, y: y + 14, class: "faint" }, counts[i].toLocaleString("en").replaceAll(",", "\u202f")));
    }
    return s("svg", { viewBox: `0 0 ${WIDTH} ${20 * (last - first + 1) + 4}`, role: "img", "aria-label": "histogram" }, bars);
  };

  // The drill-down.
  const numbers = (r) => {
    if (r.error === null && r.tolerance === null) return null;
    const share = r.error !== null && r.tolerance > 0 ? ` (${uses(r.error / r.tolerance)})` : "";
    return h("p", {}, `${r.metric}: `, h("strong", {}, r.error === null ? "no number" : short(r.error)),
      `, tolerance ${short(r.tolerance)}${share}`);
  };
  const part = (title, ...content) => (content.every((c) => c === null) ? null : [h("h3", {}, title), ...content]);
  const worst = (r, against) => {
    if (!r.worst) return null;
    const [index, got, want] = r.worst;
    const sides = against === ORACLE ? ["got", "want"] : ["left leg has", "right leg has"];
    return h("div", { class: "scroll" }, h("table", { class: "plain" },
      h("thead", {}, h("tr", {}, ["index", ...sides, "difference"].map((t) => h("th", {}, t)))),
      h("tbody", {}, h("tr", {}, [index, got, want, short(got - want)].map((t) => h("td", {}, String(t)))))));
  };
  const ways = (r) => {
    const rows = r.ways ? r.ways.map(([way, e]) => [text(way), e]) : [["", r.error]];
    const list = () => h("ul", {}, rows.map(([way, e]) => h("li", {}, `${way}: ${e === null ? "no number" : short(e)}`)));
    const drawn = rows.every(([, e]) => e !== null) ? errors(rows, r.tolerance) : null;
    return drawn || (r.ways ? list() : null);
  };
  const findings = (r) => {
    if (!r.findings) return null;
    if (!r.findings.length) return h("p", {}, "nothing found");
    return h("ul", {}, r.findings.map(([kind, message, place]) =>
      h("li", {}, h("code", {}, text(kind)), place === null ? " " : [" at ", h("code", {}, text(place))], `: ${text(message)}`)));
  };
  const timing = (r) => (r.timing ? h("p", {}, `pipelines ${r.timing[0]} ms, upload, dispatches and read-back ${r.timing[1]} ms`) : null);

  let origin = null;
  const step = (k, row, side, by) => {
    for (let next = row + by; next >= 0 && next < data.kernels[k][1].length; next += by) {
      if (result(k, next, side) && !sections[k].querySelector("tbody").rows[next].hidden) return next;
    }
    return null;
  };
  const turn = (label, title, k, row, side) =>
    h("button", { type: "button", title, "aria-label": title, "data-turn": label, ...(row === null ? { disabled: "" } : {}), onclick: () => show(k, row, side) }, label);

  function show(k, row, side) {
    const r = result(k, row, side);
    if (!r) return;
    const held = document.activeElement?.dataset.turn; // replaced below: the focus stays where it was
    const [stem, cases] = data.kernels[k];
    const [leg, against] = data.sides[side];
    const tabs = data.sides.map(([l, a], i) => {
      const other = result(k, row, i);
      return other && h("button", { type: "button", class: other.cls, ...(i === side ? { "aria-current": "true" } : {}),
        onclick: () => show(k, row, i) }, `${other.mark} ${l} / ${a}`);
    });
    dialog.replaceChildren(...[
      h("div", { class: "top" }, h("h2", { id: "detail-title" }, `${stem} ${cases[row][0]}`),
        turn("\u2191", "previous case", k, step(k, row, side, -1), side), turn("\u2193", "next case", k, step(k, row, side, 1), side),
        h("button", { type: "button", title: "close", "aria-label": "close", onclick: () => dialog.close() }, "\u2715")),
      h("nav", { "aria-label": "comparisons of this case" }, tabs),
      h("p", {}, h("span", { class: `tag ${r.cls}` }, h("b", {}, r.mark), ` ${r.name}`), ` ${r.meaning}`),
      h("p", { class: "reason" }, h("strong", {}, `${leg} against ${against === ORACLE ? "the oracle" : against}: `), r.reason),
      part(r.ways ? "Error of each way of playing" : "Error", numbers(r), ways(r)),
      part("Worst element", worst(r, against)),
      part("Elements by error (bars logarithmic)", r.histogram ? histogram(r.histogram) : null),
      part("Checker", findings(r)),
      part("Time", timing(r)),
    ].flat().filter((c) => c !== null));
    if (!dialog.open) dialog.showModal();
    (dialog.querySelector(`[data-turn="${held}"]:enabled`) || dialog.querySelector("[aria-current]")).focus();
    dialog.scrollTop = 0;
    origin = sections[k].querySelector("tbody").rows[row].cells[side + 1];
    address(`#r${k}.${row}.${side}`);
  }

  // Every result has an address. A page inside a frame may have none of its own, so links within
  // the page are followed here.
  function address(hash, how = "replaceState") {
    try { history[how](null, "", hash || location.pathname + location.search); } catch { /* stays as it is */ }
  }
  function follow(hash) {
    const to = /^#(?:k(\d+)|r(\d+)\.(\d+)\.(\d+))$/.exec(hash);
    const section = to && sections[to[1]];
    if (section) {
      section.open = true;
      section.scrollIntoView();
    } else if (to) show(Number(to[2]), Number(to[3]), Number(to[4]));
  }
  window.addEventListener("hashchange", () => follow(location.hash));
  document.addEventListener("click", (event) => {
    const hash = event.target.closest("a[href^='#']")?.getAttribute("href");
    if (!hash || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    if (hash.startsWith("#k")) address(hash, "pushState");
    follow(hash);
  });
  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: "previousSibling", ArrowRight: "nextSibling" }[event.key];
    dialog.querySelector("[aria-current]")?.[by]?.click();
  });
  dialog.addEventListener("close", () => { address(""); focus(origin); });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

  // Cells: one stop of the Tab key for each matrix, arrows within it.
  const place = (td) => [Number(td.closest("details").dataset.k), td.parentNode.sectionRowIndex, td.cellIndex - 1];
  function focus(td) {
    if (!td) return;
    for (const old of td.closest("table").querySelectorAll("td[tabindex]")) old.removeAttribute("tabindex");
    td.tabIndex = 0;
    td.focus();
  }
  const filled = (td) => td && td.tagName === "TD" && td.firstChild && td.offsetParent !== null;
  const walk = (td, key) => {
    const rows = [...td.closest("tbody").rows], [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key];
    let [row, column] = [td.parentNode.sectionRowIndex + down, td.cellIndex + right];
    while (rows[row]?.cells[column] && !filled(rows[row].cells[column])) [row, column] = [row + down, column + right];
    return rows[row]?.cells[column];
  };
  for (const section of sections) {
    const first = [...section.querySelectorAll("td")].find((td) => td.firstChild);
    if (first) first.tabIndex = 0;
    section.addEventListener("click", (event) => {
      const td = event.target.closest("td");
      if (td && td.firstChild) show(...place(td));
    });
    section.addEventListener("keydown", (event) => {
      const td = event.target.closest("td");
      if (!td) return;
      if (event.key === "Enter" || event.key === " ") show(...place(td));
      else if (event.key.startsWith("Arrow")) { const to = walk(td, event.key); if (filled(to)) focus(to); }
      else return;
      event.preventDefault();
    });
    section.addEventListener("mouseover", (event) => {
      const td = event.target.closest("td");
      if (td && td.firstChild && !td.title) { const r = result(...place(td)); td.title = `${r.name}: ${r.reason}`; }
    });
  }

  // Filters.
  const columns = h("style");
  document.head.append(columns);
  function filter() {
    const { bad, kernel, leg, text: search, show: unit } = form.elements;
    const wanted = data.sides.map((side) => !leg.value || side.includes(leg.value));
    columns.textContent = wanted.map((w, i) => (w ? "" : `.matrix tr > :nth-child(${i + 2}){display:none}`)).join("");
    document.body.classList.toggle("share", unit.value === "share");
    const words = search.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    let total = 0;
    data.kernels.forEach(([, cases], k) => {
      const rows = sections[k].querySelector("tbody").rows;
      let shown = 0;
      cases.forEach(([name], row) => {
        const fits = words.every((word) => name.toLowerCase().includes(word))
          && (!bad.checked || wanted.some((w, side) => w && result(k, row, side)?.good === false));
        rows[row].hidden = !fits;
        shown += fits;
      });
      const here = shown > 0 && (!kernel.value || kernel.value === String(k));
      sections[k].hidden = !here;
      sections[k].querySelector(".shown").textContent = shown === cases.length ? shown : `${shown} of ${cases.length}`;
      total += here ? shown : 0;
    });
    form.querySelector("output").textContent = total === 0 ? (bad.checked ? "no failures here" : "no case fits") : `${total} cases shown`;
  }
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.elements.open.addEventListener("click", () => sections.forEach((d) => { d.open = true; }));
  form.elements.close.addEventListener("click", () => sections.forEach((d) => { d.open = false; }));
  form.hidden = false;
  filter();
  follow(location.hash);
})();
