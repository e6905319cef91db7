"use strict";
// The dashboard. Everything it shows it asks from /api/v1 with the reader's own token, which lives in this tab alone.
// Text of servers and clients is set as text, never as markup. Rows are kept and only what changed is written.
const $ = id => document.getElementById(id);
const LOOK_MS = 2000, ROWS = 200, STATES = ["ready", "draining", "maintenance", "down", "ejected"];
const MEANS = {
  draining: "It takes no new users. Bound users stay until their bindings end.",
  ready: "The order is taken back: it is used as health says.",
  maintenance: "It takes no requests at all: its users move to other servers, once.",
  weight: "How many new users it gets, compared with the others. Bound users stay.",
  release: "All of its bindings that this machine knows move to the other servers. They lose what it keeps for them.",
};
let token = sessionStorage.getItem("fastroute-token") || "", pools = [], fleet = null, before = null, rates = new Map();
let everything = false, asking = false, sort = {by: "name", down: false}, only = new Set(), failures = 0;
const rows = new Map();

function note(text, bad, from) { const box = $("note"); box.textContent = text; box.className = bad ? "bad" : ""; box.dataset.from = from || ""; }
async function ask(path, body) {
  const fields = token ? {Authorization: "Bearer " + token} : {};
  const answer = await fetch("/api/v1/" + path, body === undefined ? {headers: fields} :
    {method: "POST", headers: {...fields, "Content-Type": "application/json"}, body: JSON.stringify(body)});
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.detail + (told.hint ? "; " + told.hint : ""));
  return told;
}
const at = (...parts) => parts.map(encodeURIComponent).join("/");
const make = (tag, name, text) => { const one = document.createElement(tag); if (name) one.className = name; if (text !== undefined) one.textContent = text; return one; };
function write(node, text, name) {
  text = String(text);
  if (node.textContent !== text) node.textContent = text;
  if (name !== undefined && node.className !== name) node.className = name;
}
const number = n => n === null || n === undefined ? "-" : n >= 1e6 ? (n / 1e6).toFixed(1) + " M" : n >= 1e4 ? (n / 1e3).toFixed(1) + " k" :
  Number.isInteger(n) ? String(n) : n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2);
function ago(seconds) {
  if (!seconds) return "";
  const s = Math.max(0, Date.now() / 1000 - seconds);
  return s < 60 ? s.toFixed(0) + " s" : s < 3600 ? (s / 60).toFixed(0) + " min" : s < 86400 ? (s / 3600).toFixed(1) + " h" : (s / 86400).toFixed(1) + " d";
}

// ---- charts
const SPACE = "http://www.w3.org/2000/svg";
function shape(svg, tag, name, about) {
  const one = document.createElementNS(SPACE, tag); one.setAttribute("class", name);
  for (const key in about) one.setAttribute(key, about[key]);
  svg.append(one); return one;
}
class Chart {
  constructor(title, unit, names) {
    this.title = title; this.unit = unit; this.names = names; this.figure = make("figure");
    const head = make("figcaption"); this.value = make("b"); head.append(make("span", "", title), this.value);
    this.svg = document.createElementNS(SPACE, "svg");
    this.svg.setAttribute("preserveAspectRatio", "none"); this.svg.setAttribute("role", "img");
    const foot = make("div", "foot"); this.left = make("span"); this.right = make("span"); foot.append(this.left, this.right);
    this.figure.append(head, this.svg, foot);
    this.svg.addEventListener("pointermove", e => { const box = this.svg.getBoundingClientRect(); this.hover = (e.clientX - box.left) / box.width; this.draw(); });
    this.svg.addEventListener("pointerleave", () => { this.hover = null; this.draw(); });
    this.series = []; this.times = [];
  }
  set(times, series) { this.times = times; this.series = series; this.draw(); }
  draw() {
    const count = this.times.length, width = Math.max(count - 1, 1), most = Math.max(...this.series.flat().map(v => v || 0), 1e-9);
    const y = v => 97 - 92 * (v || 0) / most;
    this.svg.replaceChildren(); this.svg.setAttribute("viewBox", "0 0 " + width + " 100");
    for (const level of [5, 51, 97]) shape(this.svg, "line", "axis", {x1: 0, x2: width, y1: level, y2: level});
    this.series.forEach((values, which) => {
      const points = values.map((v, i) => i + "," + y(v)).join(" ");
      if (which === 0 && count > 1) shape(this.svg, "polygon", "area", {points: "0,97 " + points + " " + (count - 1) + ",97"});
      shape(this.svg, "polyline", which ? "line second" : "line", {points});
    });
    let index = count - 1;
    if (this.hover !== null && this.hover !== undefined && count > 1) {
      index = Math.round(this.hover * (count - 1)); shape(this.svg, "line", "cursor", {x1: index, x2: index, y1: 0, y2: 100});
    }
    const shown = this.series.map(values => number(values[index] === undefined ? null : values[index])).join(" / ");
    write(this.value, shown + " " + this.unit);
    const hovered = this.hover !== null && this.hover !== undefined, span = count > 1 ? (this.times[count - 1] - this.times[0]) / 60 : 0;
    write(this.left, !count ? "no samples yet" : hovered ? new Date(this.times[index] * 1000).toLocaleTimeString() : span < 1 ? "" : span.toFixed(0) + " min");
    if (this.names.length > 1) this.right.replaceChildren(make("span", "key-first", this.names[0]), " / ", make("span", "key-second", this.names[1]), "  max " + number(most));
    else write(this.right, count ? "max " + number(most < 1e-8 ? 0 : most) : "");
    this.svg.setAttribute("aria-label", this.title + ": " + shown + " " + this.unit + ", most " + number(most));
  }
}
const CHARTS = [
  [new Chart("Requests", "/s", [""]), told => [told.requests]],
  [new Chart("Latency", "ms", ["median", "99 %"]), told => [told.p50_ms, told.p99_ms]],
  [new Chart("Answers 5xx", "/s", [""]), told => [told.errors]],
  [new Chart("In flight", "", [""]), told => [told.in_flight]],
  [new Chart("Bindings", "", [""]), told => [told.bindings]],
  [new Chart("Users moved", "", [""]), told => [told.moves]],
];
$("charts").append(...CHARTS.map(([chart]) => chart.figure));

// ---- servers
const COLUMNS = [
  ["pool", "Pool", "left"], ["name", "Server", "left"], ["state", "State", "left"], ["weight", "Weight", ""], ["in_flight", "In flight", ""],
  ["rate", "Requests/s", ""], ["latency_ms", "Latency", ""], ["bindings", "Bindings", ""], ["failures_total", "Failures", ""],
  ["check", "Last check", "left"], ["order", "Order", "left"]];
for (const [key, title, side] of COLUMNS) {
  const th = make("th", side), b = make("button", "", title); b.type = "button"; th.append(b); $("head").append(th); th.dataset.key = key;
  b.addEventListener("click", () => { sort = {by: key, down: sort.by === key ? !sort.down : !["pool", "name", "state"].includes(key)}; draw(); });
}
$("head").append(make("th", "left", "Change"));
const chips = new Map();
for (const state of STATES) {
  const chip = make("button", "chip " + state, state); chip.type = "button"; chip.setAttribute("aria-pressed", "false");
  chip.addEventListener("click", () => { only.has(state) ? only.delete(state) : only.add(state); chip.setAttribute("aria-pressed", String(only.has(state))); draw(); });
  chips.set(state, chip); $("chips").append(chip);
}
function checked(one) {
  const last = one.last_check || {};
  if (!Object.keys(last).length) return "";
  const said = (last.ok ? "ok" : "failed") + (last.latency_ms ? " " + number(last.latency_ms) + " ms" : "");
  return [said, last.ok ? "" : last.detail, last.at ? ago(last.at) + " ago" : ""].filter(Boolean).join(", ");
}
function ordered(one) {
  const order = one.order;
  if (!order) return "";
  const words = [order.state, order.weight === null || order.weight === undefined ? null : "weight " + order.weight];
  if (order.deadline_at && order.state === "draining") words.push("ends in " + Math.max(0, order.deadline_at - Date.now() / 1000).toFixed(0) + " s");
  return words.filter(Boolean).join(", ");
}
function rowOf(pool, server) {
  const id = pool + "/" + server.name;
  let row = rows.get(id);
  if (row) return row;
  const tr = make("tr"); tr.tabIndex = -1; tr.dataset.id = id;
  row = {tr, cells: COLUMNS.map(([, , side]) => { const td = make("td", side); tr.append(td); return td; }), pool, server};
  const td = make("td", "left");
  for (const [text, key] of [["Drain", "draining"], ["Ready", "ready"], ["Maintain", "maintenance"], ["Weight", "weight"], ["Release", "release"]]) {
    const b = make("button", "", text); b.type = "button"; b.dataset.act = key; b.setAttribute("aria-label", text + " " + id); b.tabIndex = -1;
    b.addEventListener("click", () => change(row.pool, row.server, key)); td.append(b);
  }
  tr.append(td); rows.set(id, row); return row;
}
function valueOf(entry, key) {
  const {pool, server} = entry;
  return key === "pool" ? pool : key === "rate" ? rates.get(pool + "/" + server.name) || 0 : key === "check" ? checked(server) : key === "order" ? ordered(server) :
    key === "state" ? STATES.indexOf(server.state) : server[key];
}
function draw() {
  const wanted = $("find").value.trim().toLowerCase(), all = [], counts = new Map();
  for (const pool of pools) for (const server of pool.servers) {
    counts.set(server.state, (counts.get(server.state) || 0) + 1);
    if (only.size && !only.has(server.state)) continue;
    if (wanted && !(pool.name + "/" + server.name + " " + server.address + " " + server.state).toLowerCase().includes(wanted)) continue;
    all.push({pool: pool.name, server});
  }
  const names = new Intl.Collator(undefined, {numeric: true});
  all.sort((a, b) => {
    const x = valueOf(a, sort.by), y = valueOf(b, sort.by);
    const order = typeof x === "string" || typeof y === "string" ? names.compare(x || "", y || "") : (x || 0) - (y || 0);
    return (sort.down ? -order : order) || names.compare(a.pool, b.pool) || names.compare(a.server.name, b.server.name);
  });
  const shown = everything ? all : all.slice(0, ROWS), list = [];
  for (const {pool, server} of shown) {
    const row = rowOf(pool, server); row.server = server;
    const c = row.cells, effective = Math.round(server.weight_effective * 100) / 100;
    write(c[0], pool); write(c[1], server.name + (server.backup ? " (backup)" : "")); c[1].title = server.address;
    const split = Object.keys(server.states || {}).length > 1 ? " (" + Object.entries(server.states).map(([s, n]) => n + " " + s).join(", ") + ")" : "";
    write(c[2], server.state + split, "left state " + server.state);
    write(c[3], effective === server.weight ? server.weight : server.weight + " (" + effective + ")");
    write(c[4], server.in_flight); write(c[5], number(rates.get(pool + "/" + server.name) || 0));
    write(c[6], server.latency_ms ? number(server.latency_ms) + " ms" : "-"); write(c[7], number(server.bindings));
    write(c[8], number(server.failures_total), server.failures_total ? "bad" : ""); write(c[9], checked(server), "left note"); write(c[10], ordered(server));
    list.push(row.tr);
  }
  const body = $("servers");
  if (list.length !== body.children.length || list.some((tr, i) => body.children[i] !== tr)) {
    const held = document.activeElement; body.replaceChildren(...list);
    if (held && held !== document.activeElement && body.contains(held)) held.focus({preventScroll: true});
  }
  if (list.length && !list.some(tr => tr.tabIndex === 0)) list[0].tabIndex = 0;
  const known = new Set(); for (const pool of pools) for (const server of pool.servers) known.add(pool.name + "/" + server.name);
  for (const id of rows.keys()) if (!known.has(id)) rows.delete(id);
  for (const th of $("head").children) if (th.dataset.key) th.setAttribute("aria-sort", th.dataset.key !== sort.by ? "none" : sort.down ? "descending" : "ascending");
  for (const [state, chip] of chips) { write(chip, state + " " + (counts.get(state) || 0)); chip.hidden = !counts.get(state) && !only.has(state); }
  write($("shown"), shown.length < all.length ? shown.length + " of " + all.length : all.length + (all.length === 1 ? " server" : " servers"));
  $("more").hidden = shown.length >= all.length;
}
function drawPools() {
  const list = [];
  for (const pool of pools) {
    const row = make("tr"), sum = key => pool.servers.reduce((n, one) => n + (one[key] || 0), 0);
    row.append(make("td", pool.panic ? "left bad" : "left", pool.name + (pool.panic ? "  panic: all servers are used" : "")), make("td", "left", pool.policy),
      make("td", "", pool.servers.length), make("td", pool.ready ? "ready" : "bad", pool.ready), make("td", "", number(rates.get(pool.name) || 0)),
      make("td", "", sum("in_flight")), make("td", "", pool.pending), make("td", "", number(pool.bindings)), make("td", sum("failures_total") ? "bad" : "", number(sum("failures_total"))));
    const words = [];
    if (pool.added && pool.added.length) words.push("added " + pool.added.slice(0, 3).join(", ") + (pool.added.length > 3 ? " ..." : ""));
    if (pool.removed && pool.removed.length) words.push("removed " + pool.removed.slice(0, 3).join(", ") + (pool.removed.length > 3 ? " ..." : ""));
    if (pool.found !== null && pool.found !== undefined) words.push("found " + pool.found);
    if (pool.found_note) words.push(pool.found_note);
    row.append(make("td", pool.found_note ? "left note bad" : "left note", words.join("; "))); list.push(row);
  }
  $("pools").replaceChildren(...list);
  const names = pools.map(pool => pool.name), have = [...$("pool").options].map(one => one.value);
  if (have.join("\n") !== names.join("\n")) {
    $("pool").replaceChildren(...names.map(name => new Option(name, name)));
    $("of").replaceChildren(new Option("all pools", ""), ...names.map(name => new Option(name, name)));
  }
}
function measure() {
  const now = performance.now() / 1000, totals = new Map();
  for (const pool of pools) { totals.set(pool.name, pool.requests_total); for (const one of pool.servers) totals.set(pool.name + "/" + one.name, one.requests_total); }
  if (before) rates = new Map([...totals].map(([key, total]) => [key, Math.max(0, total - (before.totals.get(key) ?? total)) / Math.max(now - before.at, .001)]));
  before = {at: now, totals};
}
function drawEvents(events) {
  const stamp = JSON.stringify(events.slice(0, 1)) + events.length;
  if ($("events").dataset.stamp === stamp) return;
  $("events").dataset.stamp = stamp;
  $("events").replaceChildren(...events.slice(0, 200).map(one => {
    const li = make("li", "event"), when = make("time", "", new Date(one.at * 1000).toLocaleTimeString());
    li.append(when, make("span", one.to || "", (one.pool ? one.pool + ": " : "") + one.text)); return li;
  }));
}
function drawFleet() {
  const told = fleet;
  if (!told) return;
  write($("fleet-note"), told.store === null ? "This replica has no fleet: " + told.note + "." : !told.store ? "The store does not answer: nothing is known of other replicas." :
    told.replicas.length + (told.replicas.length === 1 ? " replica" : " replicas") + (Object.keys(told.refused).length ? "; not believed in the store: " + Object.entries(told.refused).map(([cause, n]) => n + " " + cause).join(", ") : ""));
  $("replicas-table").hidden = !told.replicas.length; $("orders-table").hidden = !told.changes.length;
  $("replicas").replaceChildren(...told.replicas.map(one => { const tr = make("tr");
    tr.append(make("td", "left", one.name), make("td", "left", one.host || ""), make("td", "", one.supervisor || one.pid || ""), make("td", "", one.workers || "")); return tr; }));
  $("orders").replaceChildren(...told.changes.map(one => { const tr = make("tr");
    const what = one.kind === "member" ? (one.removed ? "removed" : "added at " + (one.added || {}).address) : one.kind === "release" ? "bindings released" :
      [one.state, one.weight === null || one.weight === undefined ? null : "weight " + one.weight].filter(Boolean).join(", ");
    tr.append(make("td", "left", one.pool + "/" + one.server), make("td", one.note ? "left bad" : "left", what + (one.note ? ": " + one.note : "")), make("td", "left", one.by), make("td", "", ago(one.at))); return tr; }));
}
async function look() {
  if (asking || document.hidden) return;
  asking = true;
  try {
    const of = $("of").value;
    const [told, history, ready] = await Promise.all([ask("pools"), ask("history" + (of ? "?pool=" + encodeURIComponent(of) : "")), fetch("/readyz").then(answer => answer.json())]);
    pools = told.pools; measure(); drawPools(); draw();
    for (const [chart, pick] of CHARTS) chart.set(history.at, pick(history));
    drawEvents(history.events);
    write($("health"), ready.ready ? "ready" : ready.reasons.join("; "), ready.ready ? "pill ready" : "pill bad");
    write($("replica"), location.host); failures = 0;
    if ($("note").dataset.from === "look") note("");
    document.body.dataset.looked = String(Number(document.body.dataset.looked || 0) + 1);
    try { fleet = await ask("fleet"); drawFleet(); } catch (error) { write($("fleet-note"), error.message); }
  } catch (error) { failures++; note(String(error.message || error), true, "look"); }
  $("stale").hidden = failures < 2;
  asking = false;
}

// ---- changes
async function change(pool, server, act) {
  const id = pool + "/" + server.name, titles = {draining: "Drain ", ready: "Use " + id + " again", maintenance: "Put into maintenance: ", weight: "Weight of ", release: "Release the bindings of "};
  write($("question"), act === "ready" ? titles.ready + "?" : titles[act] + id + "?"); write($("means"), MEANS[act]);
  $("weight-row").hidden = act !== "weight"; $("deadline-row").hidden = act !== "draining";
  $("fleet-row").hidden = !fleet || !fleet.store; $("everywhere").checked = false; $("weight").value = server.weight; $("deadline").value = "";
  const back = document.activeElement; $("sure").returnValue = "no"; $("sure").showModal();
  if (act === "weight") $("weight").select();
  await new Promise(done => $("sure").addEventListener("close", done, {once: true}));
  if (back && back.isConnected) back.focus({preventScroll: true});
  if ($("sure").returnValue !== "yes") return;
  const body = $("everywhere").checked ? {scope: "fleet", by: "dashboard"} : {by: "dashboard"};
  try {
    if (act === "release") {
      const told = await ask("affinity/" + at(pool) + "/release", {...body, server: server.name});
      note(id + ": " + told.bindings + " bindings are being moved", false, "change"); follow(pool, server.name);
    } else {
      if (act === "weight") body.weight = $("weight").value === "" ? null : Number($("weight").value); else body.state = act;
      if (act === "draining" && $("deadline").value.trim()) body.deadline = $("deadline").value.trim();
      const told = await ask("pools/" + at(pool) + "/servers/" + at(server.name), body);
      note(id + ": " + told.state + ", weight " + told.weight + ", " + told.bindings + " bindings, " + told.in_flight + " in flight" + (told.warning ? "; " + told.warning : ""), !!told.warning, "change");
    }
    look();
  } catch (error) { note(error.message, true, "change"); }
}
async function follow(pool, name) {
  for (let job; !job || job.state === "running";) {
    await new Promise(done => setTimeout(done, 500));
    try { job = (await ask("affinity/" + at(pool) + "/release")).releases.find(one => one.server === name); } catch (error) { return; }
    note(pool + "/" + name + ": " + job.moved + " of " + job.bindings + " bindings moved, " + job.kept + " kept" + (job.note ? ": " + job.note : ""), job.state === "failed", "change");
  }
}
$("login").addEventListener("submit", e => { e.preventDefault(); token = $("token").value.trim(); $("token").value = "";
  sessionStorage.setItem("fastroute-token", token); note(token ? "The token is used in this tab." : "No token.", false, "login"); look(); });
$("find").addEventListener("input", draw);
$("of").addEventListener("change", look);
$("more").addEventListener("click", () => { everything = true; draw(); });
$("table").addEventListener("keydown", e => {
  const tr = e.target.closest("tr"), body = $("servers");
  if (!tr || !body.contains(tr) || e.ctrlKey || e.metaKey || e.altKey) return;
  const list = [...body.children], index = list.indexOf(tr), to = {ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: list.length - 1}[e.key];
  if (to !== undefined && list[to]) { for (const one of list) one.tabIndex = -1; list[to].tabIndex = 0; list[to].focus(); e.preventDefault(); return; }
  const act = {d: "draining", r: "ready", m: "maintenance", w: "weight"}[e.key.toLowerCase()], row = rows.get(tr.dataset.id);
  if (act && row && e.target === tr) { e.preventDefault(); change(row.pool, row.server, act); }
});
document.addEventListener("keydown", e => { if (e.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName) && !$("sure").open) { e.preventDefault(); $("find").focus(); } });
$("explain").addEventListener("submit", async e => { e.preventDefault(); const box = $("answer"); box.hidden = false;
  try {
    const told = await ask("explain/" + at($("pool").value) + "?key=" + encodeURIComponent($("key").value));
    const head = make("p"), list = make("ul"); head.append(make("b", "", told.pick || "nowhere"), " (" + told.reason + "): " + told.why);
    list.append(...told.candidates.slice(0, 50).map(one => make("li", "", one.name + ": " + one.verdict + ": " + one.why)));
    box.replaceChildren(head, list, ...told.notes.map(text => make("p", "dim", text)));
  } catch (error) { box.replaceChildren(make("p", "bad", error.message)); } });
$("release").addEventListener("click", async () => { const box = $("answer"); if (!$("key").value) { $("key").focus(); return; } box.hidden = false;
  try { box.replaceChildren(make("p", "", (await ask("affinity/" + at($("pool").value) + "/release", {key: $("key").value, by: "dashboard"})).result)); look(); }
  catch (error) { box.replaceChildren(make("p", "bad", error.message)); } });
look(); setInterval(look, LOOK_MS); document.addEventListener("visibilitychange", look);
