// Keeps the overview live: fetches its parts once a second, and at once when something happens,
// and replaces only those whose text changed. Without this script the page can be read as it came.
"use strict";

const live = document.getElementById("live");
const offline = document.querySelector(".offline");
const shown = new Map();
let busy = false;
let again = false;

// Times come in UTC; people read their own clock.
const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat([], { day: "numeric", month: "short" });

function localTimes(root) {
  const today = new Date().toDateString();
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const date = at.toDateString() === today ? "" : day.format(at) + ", ";
    time.title = time.dateTime;
    time.textContent = date + clock.format(at);
  }
}

function replace(next) {
  const focus = document.activeElement && document.activeElement.id;
  const present = new Map([...live.querySelectorAll("[data-part]")].map((p) => [p.dataset.part, p]));
  const parts = next.querySelectorAll("[data-part]");
  if (parts.length !== present.size || [...parts].some((p) => !present.has(p.dataset.part))) {
    live.replaceChildren(...next.children);
    shown.clear();
    remember(live);
    return;
  }
  for (const part of parts) {
    const name = part.dataset.part;
    const html = part.innerHTML;
    if (shown.get(name) === html) continue;
    shown.set(name, html);
    const old = present.get(name);
    old.innerHTML = html;
    localTimes(old);
  }
  if (focus && (!document.activeElement || document.activeElement.id !== focus)) {
    const target = document.getElementById(focus);
    if (target) target.focus({ preventScroll: true });
  }
}

function remember(root) {
  for (const part of root.querySelectorAll("[data-part]")) shown.set(part.dataset.part, part.innerHTML);
  localTimes(root);
}

async function refresh() {
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  try {
    const answer = await fetch("/console/fragment", { signal: AbortSignal.timeout(5000) });
    if (answer.redirected) {
      location.assign("/login");
      return;
    }
    if (!answer.ok) throw new Error(answer.statusText);
    replace(new DOMParser().parseFromString(await answer.text(), "text/html").body);
    offline.hidden = true;
  } catch {
    offline.hidden = false;
  } finally {
    busy = false;
  }
  if (again) {
    again = false;
    soon();
  }
}

// Many events at once are one refresh.
let planned = 0;
function soon() {
  if (planned) return;
  planned = setTimeout(() => {
    planned = 0;
    refresh();
  }, 150);
}

localTimes(document);
if (live) {
  remember(live);
  setInterval(() => {
    if (!document.hidden) refresh();
  }, 1000);
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  const events = new EventSource("/console/events");
  for (const kind of ["ownership", "phase", "mwi", "message", "mailbox", "greeting", "call", "alarm", "sync", "vrl", "gap"]) {
    events.addEventListener(kind, soon);
  }
}
