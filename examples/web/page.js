// Opens the GPU, runs the cases one by one, and shows what comes of them. What is computed and
// judged is in the module; here is only the page.
//
// The address may say: run=1 (start at once), every=N (one of N cases), bench=256,1024 (lengths,
// or none), subgroups=off, break=KERNEL (self-test: a fault in that kernel must turn the page
// red), report=1 (also send the report to the server, as the tests do).

import init, { Session } from "./wgtq.js";

const asked = new URLSearchParams(location.search);
const $ = (selector) => document.querySelector(selector);
const GOOD = ["pass", "skipped"];
const LENGTHS = "256,1024,4096,16384";

/** An element with text and children; text is never markup. */
function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const row = (kind, cells) => element("tr", {}, ...cells.map((text) =>
  text instanceof Node ? text : element(kind, { textContent: text })));

function verdict(state, text) {
  document.body.dataset.state = state;
  $("#verdict").textContent = text;
}

// wgpu does not know the browser's subgroups, so they are asked for on its behalf.
let adapter = null;
function askForSubgroups() {
  const own = GPUAdapter.prototype.requestDevice;
  GPUAdapter.prototype.requestDevice = async function (descriptor = {}) {
    adapter = this;
    const requiredFeatures = [...(descriptor.requiredFeatures ?? [])];
    if (asked.get("subgroups") !== "off" && this.features.has("subgroups")) {
      requiredFeatures.push("subgroups");
    }
    const device = await own.call(this, { ...descriptor, requiredFeatures });
    // wgpu reads this, and it is younger than WebGPU itself.
    if (!device.adapterInfo) Object.defineProperty(device, "adapterInfo", { value: this.info });
    return device;
  };
}

/** What the browser tells of the adapter, in one line. */
function adapterName(info) {
  const known = [info.description, info.vendor, info.architecture, info.device];
  return known.filter(Boolean).join(" ") || "unnamed adapter";
}

async function open(every) {
  const probe = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!probe) throw new Error("the browser has WebGPU but offers no adapter");
  const session = await Session.open(JSON.stringify({
    adapter: adapterName(probe.info),
    machine: navigator.userAgent,
    every,
    subgroups: asked.get("subgroups") !== "off",
    broken: asked.get("break"),
  }));
  showAdapter(JSON.parse(session.leg()).adapter);
  return session;
}

function showAdapter(report) {
  const lanes = report.measured_subgroup_size;
  const rows = [
    ["Name", report.name],
    ["Subgroups", lanes ? `${lanes} lanes measured, ${report.subgroup_size.join(" to ")} reported`
      : "not used; kernels add up through workgroup memory"],
    ["Timestamps", report.timestamps ? "yes" : "no"],
    ["Features", [...adapter.features].sort().join(", ")],
    ["Browser", navigator.userAgent],
  ];
  const limits = [];
  // A limit is a property of the prototype: Object.entries does not see it.
  for (const name in adapter.limits) limits.push([name, adapter.limits[name].toLocaleString("en")]);
  const ofCompute = ([name]) => /Compute|StorageBuffer|UniformBuffer|maxBufferSize/.test(name)
    && !/Dynamic|Fragment|Vertex/.test(name);
  const rest = limits.filter((limit) => !ofCompute(limit));
  const fill = (selector, list) => $(selector).replaceChildren(
    ...list.map(([name, value]) => element("tr", {},
      element("th", { scope: "row", textContent: name }), element("td", { textContent: value }))));
  fill("#gpu table", [...rows, ...limits.filter(ofCompute)]);
  fill("#gpu details table", rest);
  $("#gpu").hidden = false;
}

/** A name that may break after its underscores. */
const breakable = (name) => name.replaceAll("_", "_\u200b");

/** The table of kernels and head dims, filled while cases run. */
class Matrix {
  constructor(cases) {
    this.cells = new Map();
    const dims = [...new Set(cases.map((c) => c.head_dim))];
    const kernels = [...new Set(cases.map((c) => c.kernel))];
    const body = kernels.map((kernel) => row("td", [
      element("th", { scope: "row", textContent: breakable(kernel) }),
      ...dims.map((dim) => {
        const cell = { total: 0, done: 0, passed: 0, skipped: 0, worst: 0, node: element("td") };
        this.cells.set(`${kernel} ${dim}`, cell);
        return cell.node;
      }),
    ]));
    for (const c of cases) this.cell(c).total += 1;
    for (const cell of this.cells.values()) this.show(cell);
    $("#matrix table").replaceChildren(row("th", ["", ...dims]), ...body);
    $("#matrix").hidden = false;
  }

  cell(c) { return this.cells.get(`${c.kernel} ${c.head_dim}`); }

  add(c, result) {
    const cell = this.cell(c);
    cell.done += 1;
    if (result.status === "pass") cell.passed += 1;
    if (result.status === "skipped") cell.skipped += 1;
    if (result.tolerance > 0) cell.worst = Math.max(cell.worst, result.error / result.tolerance);
    this.show(cell);
  }

  show(cell) {
    const failed = cell.done - cell.passed - cell.skipped;
    cell.node.className = failed ? "bad" : cell.done && cell.done === cell.total ? "good" : "";
    const count = `${cell.passed} / ${cell.total}`;
    const note = failed ? `${failed} failed`
      : cell.skipped ? `${cell.skipped} skipped`
      : cell.worst ? `${(100 * cell.worst).toPrecision(2)} %` : "";
    cell.node.replaceChildren(cell.total ? count : "", element("small", { textContent: note }));
  }
}

function showFailure(report, result) {
  $("#failures").hidden = false;
  $("#failures ul").append(element("li", {},
    element("b", { textContent: result.status.replace("_", " ") }),
    ` ${report.kernel} ${report.case}`, element("span", { textContent: result.reason })));
}

const time = (us) => us < 1e3 ? `${us.toPrecision(3)} µs`
  : `${us < 1e6 ? (us / 1e3).toPrecision(3) : Math.round(us / 1e3)} ms`;

const short = (x) => x === null ? "" : x === 0 ? "0" : x.toExponential(1);

function showCases(reports) {
  const lists = Map.groupBy ? Map.groupBy(reports, (r) => r.kernel)
    : reports.reduce((m, r) => m.set(r.kernel, [...(m.get(r.kernel) ?? []), r]), new Map());
  const details = [...lists].map(([kernel, list]) => element("details", {},
    element("summary", { textContent: `${kernel}, ${list.length} cases` }),
    element("div", { className: "wide" }, element("table", {},
      row("th", ["case", "status", "error", "tolerance"]),
      ...list.map((r) => {
        const result = r.results[0];
        const good = GOOD.includes(result.status);
        const status = element("td", { textContent: result.status, title: result.reason });
        status.className = good ? "" : "bad";
        return row("td", [r.case, status, short(result.error), short(result.tolerance)]);
      })))));
  $("#cases").replaceChildren($("#cases h2"), ...details);
  $("#cases").hidden = false;
}

/** Points on logarithmic axes. */
function curve(points) {
  const [width, height, left, bottom] = [440, 240, 62, 34];
  const xs = points.map((p) => Math.log2(p.kv_seq_len));
  const ys = points.map((p) => Math.log10(p.timing.us_per_call));
  const [x0, x1] = [Math.min(...xs) - 0.3, Math.max(...xs) + 0.3];
  const y0 = Math.floor(Math.min(...ys));
  const y1 = Math.max(Math.ceil(Math.max(...ys)), y0 + 1);
  const x = (v) => left + (v - x0) / (x1 - x0) * (width - left - 8);
  const y = (v) => height - bottom - (v - y0) / (y1 - y0) * (height - bottom - 12);
  const node = (name, attributes, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    made.textContent = text;
    return made;
  };
  const svg = node("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": "microseconds a call over positions, both axes logarithmic" });
  for (let power = y0; power <= y1; power += 1) {
    svg.append(node("line", { x1: left, x2: width - 8, y1: y(power), y2: y(power) }),
      node("text", { x: left - 6, y: y(power) + 4, "text-anchor": "end" },
        power < 3 ? `${10 ** power} µs` : `${10 ** (power - 3)} ms`));
  }
  points.forEach((p, i) => svg.append(
    node("text", { x: x(xs[i]), y: height - bottom + 16, "text-anchor": "middle" }, p.kv_seq_len),
    node("circle", { cx: x(xs[i]), cy: y(ys[i]), r: 4 })));
  svg.append(node("path", { d: "M" + xs.map((v, i) => `${x(v)},${y(ys[i])}`).join("L") }),
    node("text", { x: width - 8, y: height - 2, "text-anchor": "end" }, "positions"));
  return svg;
}

function showBench(bench) {
  const clock = bench.clock === "timestamp_query" ? "GPU timestamps around one pass of many calls"
    : "wall clock from submit to read-back of one pass of many calls";
  $("#bench p").textContent = `${bench.kernel}, head_dim ${bench.head_dim}, ${bench.num_heads} ` +
    `query and ${bench.num_kv_heads} KV heads, 4-bit K and V, full cache, the kernel alone. ` +
    `Each shape is checked against the oracle first. Median of ${clock}.`;
  const timed = bench.points.filter((p) => p.timing);
  $("#bench .curve").replaceChildren(...(timed.length ? [curve(timed)] : []));
  const cells = ({ kv_seq_len, nwg, verified, timing }) => [kv_seq_len, nwg,
    timing ? time(timing.us_per_call) : verified.reason,
    timing ? timing.us_range.map(time).join(" to ") : "",
    timing ? `${timing.samples} x ${timing.calls}` : ""];
  $("#bench table").replaceChildren(row("th", ["positions", "splits", "a call", "samples", "calls"]),
    ...bench.points.map((p) => row("td", cells(p))));
  $("#bench").hidden = false;
}

async function runCases(session, cases) {
  const matrix = new Matrix(cases);
  const reports = [];
  $("#failures ul").replaceChildren();
  $("#failures").hidden = true;
  Object.assign($("#progress"), { max: cases.length, value: 0, hidden: false });
  $("#current").hidden = false;
  for (const [index, c] of cases.entries()) {
    $("#current").textContent = `${index + 1} of ${cases.length}: ${c.kernel} ${c.case}`;
    const report = JSON.parse(await session.run_case(index));
    matrix.add(c, report.results[0]);
    for (const r of report.results) if (!GOOD.includes(r.status)) showFailure(report, r);
    reports.push(report);
    $("#progress").value = index + 1;
  }
  showCases(reports);
  return reports;
}

async function runBench(session) {
  const lengths = asked.get("bench") ?? LENGTHS;
  let bench = null;
  for (const length of lengths === "none" ? [] : lengths.split(",").map(Number)) {
    $("#current").textContent = `timing attention over ${length} positions`;
    bench = JSON.parse(await session.bench(length));
    showBench(bench);
  }
  return bench;
}

/** Links to the report as a file and as a page. */
function offer(session) {
  const now = new Date().toISOString().replace(/\.\d+Z$/, "Z");
  const link = (selector, type, text) => {
    const node = $(selector);
    if (node.href) URL.revokeObjectURL(node.href);
    node.href = URL.createObjectURL(new Blob([text], { type }));
    node.hidden = false;
  };
  link("#download", "application/json", session.report(now));
  link("#matrix-page", "text/html", session.page(now));
}

async function run(every) {
  for (const button of document.querySelectorAll("button")) button.disabled = true;
  const start = performance.now();
  try {
    verdict("running", "Opening the GPU.");
    const session = await open(every);
    const cases = JSON.parse(session.cases());
    verdict("running", `Running ${cases.length} cases.`);
    const reports = await runCases(session, cases);
    const bench = await runBench(session);
    offer(session);
    const results = [...reports.flatMap((r) => r.results), ...(bench?.points ?? []).map((p) => p.verified)];
    const count = (wanted) => results.filter((r) => wanted(r.status)).length;
    const failed = count((s) => !GOOD.includes(s));
    const skipped = count((s) => s === "skipped");
    const seconds = ((performance.now() - start) / 1e3).toFixed(1);
    const passed = count((s) => s === "pass");
    const also = skipped ? `, ${skipped} skipped` : "";
    verdict(failed || !passed ? "fail" : "pass", failed || !passed
      ? `${failed} of ${results.length} checks FAILED${also}, in ${seconds} s.`
      : `All ${passed} checks passed${also}, in ${seconds} s.`);
    session.free();
  } catch (error) {
    verdict("fail", `Could not run: ${error.message ?? error}`);
  }
  $("#progress").hidden = true;
  $("#current").hidden = true;
  for (const button of document.querySelectorAll("button")) button.disabled = false;
}

/** Sends the file that the download offers, and what the page shows, to the server. */
async function send() {
  const link = $("#download");
  const shown = {
    state: document.body.dataset.state,
    verdict: $("#verdict").textContent,
    failures: document.querySelectorAll("#failures li").length,
    red: [...document.querySelectorAll("#matrix td.bad")].map((td) =>
      td.parentNode.firstChild.textContent.replaceAll("\u200b", "")),
    report: link.hidden ? null : await (await fetch(link.href)).text(),
  };
  await fetch("/report", { method: "POST", body: JSON.stringify(shown) });
}

async function start() {
  if (!navigator.gpu) {
    verdict("fail", isSecureContext ? "This browser has no WebGPU."
      : "WebGPU needs https or localhost.");
    return;
  }
  askForSubgroups();
  await init();
  verdict("ready", "Ready.");
  $("#run").disabled = $("#run-part").disabled = false;
  $("#run").onclick = () => run(1);
  $("#run-part").onclick = () => run(8);
  const every = Number(asked.get("every") ?? 1);
  if (asked.has("run") || asked.has("report")) await run(every);
}

start()
  .catch((error) => verdict("fail", `Could not start: ${error.message ?? error}`))
  .then(() => asked.get("report") === "1" ? send() : undefined);
