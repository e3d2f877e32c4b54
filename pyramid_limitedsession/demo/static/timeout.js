// Lets the clocks of the page run, warns before the session ends, and says
// why when it is over.
const POLL_EVERY = 5000;
// Read out to those who do not see the seconds go by.
const READ_OUT_AT = [30, 10];

const byId = (id) => document.getElementById(id);
const life = byId("life");
const warning = byId("warning");
const stay = byId("stay");
const problem = byId("warning-problem");

function inWords(seconds) {
  const two = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(seconds / 3600);
  const minutes = Math.floor(seconds / 60) % 60;
  const rest = two(seconds % 60);
  if (hours > 0) return `${hours} h ${two(minutes)} min ${rest} s`;
  if (minutes > 0) return `${minutes} min ${rest} s`;
  return `${seconds % 60} s`;
}

// What the server said, and when it was said. The browser's own idea of the
// date and time is not asked: it may be wrong.
class Clock {
  constructor(element, direction) {
    this.element = element;
    this.direction = direction;
    this.set(Number(element.dataset.seconds));
  }

  set(seconds) {
    this.seconds = seconds;
    this.since = performance.now();
  }

  show() {
    const passed = Math.floor((performance.now() - this.since) / 1000);
    const now = Math.max(this.seconds + this.direction * passed, 0);
    this.element.textContent = inWords(now);
    return now;
  }
}

const makeClock = (id, direction) =>
  byId(id) && new Clock(byId(id), direction);

// -- the warning ------------------------------------------------------------

const title = document.title;
let isDismissed = false;

function warnIfDue(seconds, limit) {
  const warnAt = Number(life.dataset.warnAt);
  // A slow answer may put a clock back by a second.
  if (seconds > warnAt + 1) {
    isDismissed = false;
    warning.close();
  } else if (seconds <= warnAt && !isDismissed) {
    byId("warning-left").textContent = inWords(seconds);
    for (const part of warning.querySelectorAll("[data-by]")) {
      part.hidden = part.dataset.by !== limit;
    }
    if (READ_OUT_AT.includes(seconds)) {
      byId("warning-said").textContent = `${seconds} seconds are left.`;
    }
    // Modal: it takes the focus, keeps it, and gives it back.
    if (!warning.open) warning.showModal();
  }
  // What one sees of a page in another tab.
  document.title = warning.open ? `Ends soon: ${title}` : title;
}

// -- the session ------------------------------------------------------------

const age = makeClock("age", 1);
const clocks = {
  idle: makeClock("idle", -1),
  absolute: makeClock("absolute", -1),
};
const timers = [];
let polls = 0;
let isOver = false;
let wasZero = false;

function end(reason) {
  isOver = true;
  timers.forEach(clearInterval);
  warning.close();
  for (const section of document.querySelectorAll("section, .notices")) {
    section.hidden = true;
  }
  const over = byId("over");
  over.querySelector(`[data-reason="${reason ?? ""}"]`).hidden = false;
  over.hidden = false;
  over.focus();
  document.title = `Signed out: ${title}`;
}

// Passive: it neither keeps the session alive nor takes the cookie of one
// that is over, so that every tab is told why.
async function poll() {
  const poll = ++polls;
  const response = await fetch(life.dataset.timeout);
  const answer = await response.json();
  // A later one knows better.
  if (poll !== polls || isOver) return;
  if (!answer.active) {
    end(answer.ended);
    return;
  }
  for (const limit of ["idle", "absolute"]) {
    if (clocks[limit] && answer[limit] !== null) {
      clocks[limit].set(answer[limit]);
    }
  }
  tick();
}

// It may have been the network: the clocks go on, and so do the polls.
const tryToPoll = () => poll().catch(() => {});

function tick() {
  age.show();
  const idle = clocks.idle?.show() ?? Infinity;
  const absolute = clocks.absolute?.show() ?? Infinity;
  const seconds = Math.min(idle, absolute);
  warnIfDue(seconds, absolute === seconds ? "absolute" : "idle");
  if (seconds === 0 && !wasZero) tryToPoll();
  wasZero = seconds === 0;
}

async function staySignedIn() {
  stay.disabled = true;
  problem.textContent = "";
  try {
    // First, because a refused form takes the cookie of a session that is
    // over, and with it the reason.
    await poll();
    if (isOver) return;
    const token = document.querySelector("meta[name=csrf-token]").content;
    const options = { method: "POST", headers: { "X-CSRF-Token": token } };
    const response = await fetch(stay.dataset.stay, options);
    // Another tab has logged in: this page is of before.
    if (!response.ok) {
      location.assign(life.dataset.home);
      return;
    }
    warning.close();
    await poll();
  } catch {
    problem.textContent = "That did not work. Try again.";
  } finally {
    stay.disabled = false;
    if (warning.open) stay.focus();
  }
}

// A visitor without a session has nothing to watch.
if (life) {
  timers.push(setInterval(tick, 250), setInterval(tryToPoll, POLL_EVERY));
  stay.addEventListener("click", staySignedIn);
  warning.addEventListener("close", () => {
    isDismissed = true;
  });
  document.addEventListener("activity", tryToPoll);
  // Clocks stand still while a computer sleeps.
  document.addEventListener("visibilitychange", tryToPoll);
  tick();
}
