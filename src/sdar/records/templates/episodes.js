"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const el = id => document.getElementById(id);
const filters = { method: "method_label", seed: "seed", stage: "stage", panel: "panel", type: "type_label" };
const column = Object.fromEntries(data.numbers.map((name, i) => [name, i]));
const lit = new Set();
let current = null;

function node(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}
function mix(position) {
  const share = Math.sqrt(Math.min(1, Math.abs(position)));
  const end = position > 0 ? data.colours.open : data.colours.closed;
  return "rgb(" + data.colours.neutral.map((w, i) => Math.round(w + share * (end[i] - w))).join(",") + ")";
}
// A gate is neutral at one half, a weight of either sign at 0.
const signedGate = () => current !== null && current.signed_gate;
function shade(values) {
  const by = el("colour").value, value = values[column[by]];
  if (value === null) return "#e4e4e4";
  return mix(by !== "gate" ? value / data.limits[by] : signedGate() ? value : 2 * value - 1);
}
function legend() {
  const by = el("colour").value, limit = data.limits[by], unit = by === "gap" ? " nats" : "";
  el("low").textContent = by === "gate" ? (signedGate() ? "−1 (lowered)" : "0 (closed)") : "≤ −" + limit + unit;
  el("high").textContent = by === "gate" ? (signedGate() ? "+1 (raised)" : "1 (open)") : "≥ +" + limit + unit;
  const pen = el("ramp").getContext("2d");
  for (let x = 0; x < 144; x++) { pen.fillStyle = mix(2 * x / 143 - 1); pen.fillRect(x, 0, 1, 16); }
}
function fill(id, key) {
  const values = new Set(data.episodes.map(e => e[key]));
  el(id).append(new Option("all", ""));
  for (const value of values) el(id).append(new Option(value, value));
  el(id).parentNode.hidden = values.size < 2;
}
function turnFits(turn) {
  if (turn.number < (+el("first").value || 1) || turn.number > (+el("last").value || Infinity)) return false;
  switch (el("turns").value) {
    case "invalid": return !turn.valid;
    case "refused": return turn.valid && !turn.admissible;
    case "differ": return turn.teacher_greedy_action !== null && turn.teacher_greedy_action !== turn.student_greedy_action;
    case "expert": return turn.expert_action !== null && turn.action !== turn.expert_action;
  }
  return true;
}
function matching() {
  return data.episodes.filter(e => Object.entries(filters).every(([id, key]) => !el(id).value || String(e[key]) === el(id).value)
    && (!el("outcome").value || String(e.success) === el("outcome").value) && e.turns.some(turnFits));
}
function list() {
  const found = matching();
  el("list").replaceChildren(node("p", found.length + " of " + data.episodes.length + " episodes"), ...found.map(e => {
    const button = node("button");
    button.append(e.type_label + " ", node("span", e.success ? "solved" : "failed", e.success ? "won" : "lost"),
      document.createElement("br"), node("small", e.source + " · " + e.panel + " · " + e.turns.length + " turns"));
    button.onclick = () => show(e, true);
    button.episode = e;
    return button;
  }));
  if (!found.length) { el("list").append(node("p", "No episode matches these filters.")); el("episode").replaceChildren(); return; }
  show(found.includes(current) ? current : found[0], false);
}
function prompt(title, index, skill) {
  const box = node("details"), text = data.texts[index], body = node("pre");
  const start = skill ? text.indexOf(skill) : -1;
  if (start < 0) body.textContent = text;
  else body.append(text.slice(0, start), node("mark", skill), text.slice(start + skill.length));
  box.append(node("summary", title + (start < 0 ? "" : " (the skill is marked)")), body);
  return box;
}
function seen(title, index) {
  const line = node("div", undefined, "seen");
  line.append(node("b", title + " "), data.texts[index]);
  return line;
}
function opinions(turn) {
  const line = node("div", undefined, "others");
  [["Expert", turn.expert_action, false], ["Greedy student", turn.student_greedy_action, true], ["Greedy teacher", turn.teacher_greedy_action, true]].forEach(([who, action, judged]) => {
    if (action === null) return;
    const part = node("span");
    part.append(node("b", who + ": "), action || "(nothing)");
    if (judged && turn.expert_action !== null) {
      const right = action === turn.expert_action;
      part.append(node("span", right ? " ✓" : " ✗", right ? "won" : "lost"));
      part.title = right ? "the expert's action" : "not the expert's action";
    }
    line.append(part);
  });
  return line;
}
function dress(token) {
  token.style.background = shade(token.values);
  token.classList.toggle("faded", lit.size > 0 && !lit.has(token.kind));
}
function show(episode, scroll) {
  current = episode;
  legend();
  for (const button of el("list").querySelectorAll("button")) button.setAttribute("aria-current", button.episode === episode);
  const head = node("div"), line = node("p", episode.source + ", " + episode.stage + ", " + episode.panel + ", " + episode.type_label + ": ");
  line.append(node("span", episode.success ? "solved" : "failed", episode.success ? "won" : "lost"), " after " + episode.turns.length + " turns");
  head.append(node("h2", episode.task_id), line);
  if (episode.skill) head.append(node("p", "Skill: " + episode.skill));
  const shown = episode.turns.filter(turnFits);
  const turns = shown.map(turn => {
    const box = node("section", undefined, "turn");
    box.append(node("h3", "Turn " + turn.number + ": " + (turn.action || "(no action)")));
    if (!turn.valid) box.firstChild.append(node("span", "invalid response", "badge"));
    else if (!turn.admissible) box.firstChild.append(node("span", "action not offered", "badge"));
    if (data.texts[turn.observation]) box.append(seen("Sees:", turn.observation));
    const tokens = node("div", undefined, "tokens");
    turn.tokens.forEach((text, i) => {
      const token = node("span", text || "∅");
      token.tabIndex = i ? -1 : 0;
      Object.assign(token, { values: turn.values[i], kind: turn.classes[i], number: turn.token_ids[i], place: i, turn: turn });
      token.style.setProperty("--of-class", data.classes[token.kind].colour);
      dress(token);
      tokens.append(token);
    });
    box.append(tokens, opinions(turn));
    if (data.texts[turn.result]) box.append(seen("Result:", turn.result));
    const skill = data.texts[turn.skill_text];
    if (data.texts[turn.student_prompt]) box.append(prompt("Student's prompt", turn.student_prompt, skill));
    if (data.texts[turn.teacher_prompt]) box.append(prompt("Teacher's prompt", turn.teacher_prompt, skill));
    return box;
  });
  if (shown.length < episode.turns.length) turns.push(node("p", shown.length + " of " + episode.turns.length + " turns match the filters."));
  el("episode").replaceChildren(head, ...turns);
  if (scroll) window.scrollTo(0, 0);
}
function tip(token) {
  const table = node("table");
  const plain = value => value === null ? "–" : value.toFixed(3).replace(/^-0\.000$/, "0.000");
  const signed = value => (value >= .0005 ? "+" : "") + plain(value);
  const of = name => token.values[column[name]];
  [["class", data.classes[token.kind].name], ["position", token.place], ["token id", token.number], ["gap (nats)", signed(of("gap"))], ["gate", plain(of("gate"))],
   ["advantage", signed(of("advantage"))], ["log p student", plain(of("student_log_prob"))], ["log p teacher", plain(of("teacher_log_prob"))],
   ["log p reference", plain(of("reference_log_prob"))], ["log p when sampled", plain(of("old_log_prob"))],
   ["response", token.turn.valid ? "valid" : "invalid"], ["episode", current.success ? "solved" : "failed"]].forEach(([name, value]) => {
    const row = node("tr"); row.append(node("td", name), node("td", value)); table.append(row);
  });
  el("tip").replaceChildren(table);
  el("tip").style.display = "block";
  const at = token.getBoundingClientRect(), size = el("tip").getBoundingClientRect();
  el("tip").style.left = Math.max(4, Math.min(at.left, innerWidth - size.width - 8)) + "px";
  el("tip").style.top = (at.top > size.height + 8 ? at.top - size.height - 6 : at.bottom + 6) + "px";
}
for (const event of ["mouseover", "focusin"]) el("episode").addEventListener(event, e => e.target.values && tip(e.target));
for (const event of ["mouseout", "focusout"]) el("episode").addEventListener(event, () => { el("tip").style.display = "none"; });
el("episode").addEventListener("keydown", e => {
  const step = { ArrowRight: "nextSibling", ArrowLeft: "previousSibling" }[e.key];
  if (!step || !e.target.values) return;
  e.preventDefault();
  if (e.target[step]) e.target[step].focus();
});
document.addEventListener("keydown", e => {
  if (e.ctrlKey || e.metaKey || e.altKey || /^(INPUT|SELECT)$/.test(e.target.tagName)) return;
  const step = { n: 1, p: -1 }[e.key], found = matching();
  const next = found[found.indexOf(current) + step];
  if (step && next) {
    show(next, true);
    [...el("list").querySelectorAll("button")].find(b => b.episode === next).scrollIntoView({ block: "nearest" });
  }
});
function redress() { document.querySelectorAll(".tokens span").forEach(dress); }
data.classes.forEach((kind, number) => {
  const button = node("button", kind.name);
  button.style.borderBottomColor = kind.colour;
  button.setAttribute("aria-pressed", "false");
  button.title = "show " + kind.name + " tokens alone";
  button.onclick = () => {
    lit.has(number) ? lit.delete(number) : lit.add(number);
    button.setAttribute("aria-pressed", lit.has(number));
    redress();
  };
  el("classes").append(button);
});
const lines = node("button", "class lines");
lines.title = "lines below the tokens tell their class";
lines.setAttribute("aria-pressed", "true");
lines.onclick = () => lines.setAttribute("aria-pressed", document.body.classList.toggle("marked"));
el("classes").append(lines);
for (const [id, key] of Object.entries(filters)) { fill(id, key); el(id).onchange = list; }
const longest = Math.max(1, ...data.episodes.map(e => e.turns[e.turns.length - 1].number));
for (const id of ["first", "last"]) el(id).max = longest;
el("last").value = longest;
for (const id of ["outcome", "turns", "first", "last"]) el(id).onchange = list;
el("colour").onchange = () => { legend(); redress(); };
function place() { document.documentElement.style.setProperty("--below", el("controls").offsetHeight + "px"); }
addEventListener("resize", place);
legend();
list();
place();
