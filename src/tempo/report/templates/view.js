"use strict";
// The page of `tempo view`: a list of pairs and videos, and the selected one.

const $ = (id) => document.getElementById(id);
const video = $("video"), form = $("filters");
let rows = [];        // The rows of the list so far.
let item = null;      // The selected item, as the server describes it.
let player = video;   // The <video>, or StoredFrames if the browser cannot play the file.
let route = [];       // While the perturbed order is played: the remaining clips, the current one first.

async function ask(path, values, options) {
  const answer = await fetch(`${path}?${new URLSearchParams(values)}`, options);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// ---- the list

async function load(isMore) {
  const found = await ask("list", [...new FormData(form), ["after", isMore ? rows.at(-1).id : ""]]);
  if (!isMore) {
    rows = [];
    $("rows").replaceChildren();
    $("count").textContent = `${found.total.toLocaleString("en")} found`;
  }
  rows.push(...found.rows);
  $("rows").append(...found.rows.map(listed));
  if (!rows.length) $("item").hidden = true;
  else if (!isMore) await look(rows[0].id);
}

// Imported pairs may have no level.
const labelled = ({ kind, level }) => kind + (level ? `, r = ${level}` : "");

function listed(row) {
  const isVideo = row.kind === "video";
  const below = isVideo ? row.part : row.name + (row.part === "training" ? "" : `, ${row.part}`);
  const name = make("span", { textContent: isVideo ? row.name : labelled(row) });
  row.button = make("button", { onclick: () => look(row.id) }, name, make("small", { textContent: below }));
  row.button.dataset.decision = row.decision;
  return make("li", {}, row.button);
}

async function move(steps) {
  const place = rows.findIndex((row) => row.id === item?.id) + steps;
  if (place && place === rows.length) await load(true);
  if (rows[place]) await look(rows[place].id);
}

// ---- the item

async function look(id) {
  const found = await ask("item", { id }), before = item?.video_id;
  player.pause();
  [item, route] = [found, []];
  for (const row of rows) row.button.setAttribute("aria-current", row.id === id);
  rows.find((row) => row.id === id)?.button.scrollIntoView({ block: "nearest" });
  $("title").textContent = item.kind === "video" ? item.name : `${labelled(item)}: ${item.name}`;
  const measures = Object.entries(item.measures).map(([name, value]) => `${name} ${value}`);
  $("about").textContent = [item.part, item.id, ...measures].filter(Boolean).join(" · ");
  show(item.decision);
  if (item.video_id === before) {
    player.currentTime = item.start;
  } else {
    use(video);
    video.src = `video?${new URLSearchParams({ id: item.video_id })}#t=${item.start}`;
  }
  drawStrips();
  drawTexts();
  $("item").hidden = false;
}

function drawTexts() {
  for (const id of ["texts", "keep", "reject"]) $(id).hidden = item.kind === "video";
  const labels = ["original video", "perturbed video"];
  if (item.is_mirror) labels.reverse();
  $("prompt").textContent = item.prompt;
  for (const [i, name] of ["chosen", "rejected"].entries()) {
    $(name).innerHTML = item[name] ?? "";   // The server has escaped the text and marked the differences.
    $(name).previousElementSibling.textContent = item.order?.length ? labels[i] : "";
  }
}

function drawStrips() {
  const order = item.order ?? [], shown = item.shown ?? [], end = item.frame_seconds.at(-1), hasClips = item.clips.length > 0;
  // Without clips, the time line has eight equal parts.
  const equal = end ? [...Array(8).keys()].map((i) => [[(i * end) / 8, ((i + 1) * end) / 8], ""]) : [];
  item.strip = (hasClips ? item.clips : equal).map(([[start, end], caption], i) => ({ start, end, caption, name: hasClips ? i + 1 : "" }));
  const isLost = (i) => hasClips && order.length > 0 && !order.includes(i);
  const lost = item.kind === "replace" ? "replaced" : "dropped";
  $("clips").replaceChildren(...item.strip.map((part, i) => cell(part, isLost(i) ? lost : "")));
  // A clip of another video is an object, one of this video its index.
  $("order").replaceChildren(...shown.map((i) => cell(i.frame ? i : hasClips ? item.strip[i] : { name: i + 1 })));
  $("changed").hidden = !order.length;
  $("play-order").hidden = !order.length || !hasClips || item.kind === "replace";
  $("difficulty").textContent = item.difficulty;
}

function cell({ name, start, end, caption, video, frame }, lost = "") {
  const isKnown = start !== undefined;
  const button = make("button", { title: caption ?? "", disabled: !isKnown, onclick: () => { [route, player.currentTime] = [[], start]; } });
  if (frame || (isKnown && item.frame_seconds.length)) {
    const src = frame ? `frame?${new URLSearchParams(frame)}` : frameSource((start + end) / 2);
    button.append(make("img", { alt: "", src }));
  }
  const place = video ? ` of ${video}` : isKnown ? ` ${lost || `${start.toFixed(1)} s`}` : "";
  button.append(make("b", { textContent: name }), place);
  const entry = make("li", { className: lost }, button);
  entry.style.flexGrow = isKnown ? end - start : 1;
  return entry;
}

// ---- playing

function frameSource(time) {
  const distances = item.frame_seconds.map((seconds) => Math.abs(seconds - time));
  return `frame?${new URLSearchParams({ id: item.video_id, number: distances.indexOf(Math.min(...distances)) })}`;
}

// The part of a <video> that this page needs, with the frames that are stored for the model.
class StoredFrames {
  paused = true;
  #start = item.start;   // The time shown when the player was last started, stopped or moved, at `#since`.
  #since = 0;
  get currentTime() {
    const passed = this.paused ? 0 : (performance.now() - this.#since) / 1000;
    return Math.min(this.#start + passed, item.frame_seconds.at(-1));
  }
  set currentTime(seconds) {
    [this.#start, this.#since] = [seconds, performance.now()];
  }
  get ended() {
    return this.currentTime === item.frame_seconds.at(-1);
  }
  async play() {
    this.currentTime = this.ended ? item.start : this.currentTime;
    this.paused = false;
  }
  pause() {
    this.currentTime = this.currentTime;
    this.paused = true;
  }
}

function use(next) {
  player = next;
  video.hidden = player !== video;
  $("frame").hidden = $("fallback").hidden = player === video;
}

function useFrames() {
  if (item.frame_seconds.length) use(new StoredFrames());
  else $("status").textContent = "The browser cannot play this file, and no frames of it are stored.";
}

video.onerror = useFrames;
// Browsers play only the sound of some files.
video.onloadedmetadata = () => video.videoWidth || useFrames();

const play = () => player.play().catch(() => {});   // It fails if another video is opened at the same time.

function playRoute() {
  player.currentTime = item.strip[route[0]].start;
  play();
}

function playOrder() {
  if ($("play-order").hidden) return;
  route = [...item.order];
  playRoute();
}

function tick() {
  if (!item) return;
  if (route.length && (player.ended || player.currentTime >= item.strip[route[0]].end - 0.03)) {
    route.shift();
    if (route.length) playRoute(); else player.pause();
  }
  const time = player.currentTime, source = player === video ? "" : frameSource(time);
  if (source && !$("frame").src.endsWith(source)) $("frame").src = source;
  for (const [i, { start, end, caption }] of item.strip.entries()) {
    const button = $("clips").children[i].firstChild, isNow = time >= start && time < end;
    button.style.setProperty("--done", Math.min(1, Math.max(0, (time - start) / (end - start))));
    button.setAttribute("aria-current", isNow);
    if (isNow) $("caption").textContent = caption;
  }
  for (const [i, entry] of [...$("order").children].entries()) {
    entry.firstChild.setAttribute("aria-current", route.length > 0 && item.shown[i] === route[0]);
  }
}
setInterval(tick, 50);

// ---- decisions

function show(decision) {
  const row = rows.find((row) => row.id === item.id);
  for (const element of [$("title"), row?.button]) if (element) element.dataset.decision = decision;
}

async function decide(decision) {
  if (!item || item.kind === "video") return;
  const body = JSON.stringify({ id: item.id, decision });
  await ask("review", {}, { method: "POST", headers: { "content-type": "application/json" }, body });
  show(decision);
  await move(1);
}

const actions = {
  k: () => decide("keep"), r: () => decide("reject"), p: playOrder, " ": () => (player.paused ? play() : player.pause()),
  ArrowRight: () => move(1), ArrowDown: () => move(1), ArrowLeft: () => move(-1), ArrowUp: () => move(-1),
};

// Keys are ignored until the next item is shown, so that nobody decides on an item before seeing it.
let isBusy = false;
async function act(key) {
  if (isBusy) return;
  isBusy = true;
  try { await actions[key](); } finally { isBusy = false; }
}

// Runs before the controls of the <video>, which use arrows and space for other purposes.
document.addEventListener("keydown", (event) => {
  const isForElement = event.target.matches(event.key === " " ? "input, select, summary, button" : "input, select");
  if (!actions[event.key] || isForElement || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  event.stopPropagation();
  if (!event.repeat || event.key.startsWith("Arrow")) act(event.key);
}, true);
// After a click with the mouse, the page gets the keys again. With the keyboard, the focus stays.
document.addEventListener("click", (event) => event.detail && event.target.closest("button")?.blur());
for (const button of document.querySelectorAll("[data-key]")) button.onclick = () => act(button.dataset.key);

let timer;
form.oninput = () => { clearTimeout(timer); timer = setTimeout(load, 150); };
form.onsubmit = (event) => event.preventDefault();
window.onunhandledrejection = (event) => { $("status").textContent = `Error: ${event.reason.message}`; };
history.replaceState(null, "", location.pathname);   // The token is in a cookie now.
load();
