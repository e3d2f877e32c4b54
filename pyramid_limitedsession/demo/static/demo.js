// Lets the clocks of the page run, and fires the parallel requests.
"use strict";

const CHAINS = 8;
const STEPS = 5;

function inWords(seconds) {
  const two = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(seconds / 3600);
  const minutes = Math.floor(seconds / 60) % 60;
  const rest = two(seconds % 60);
  if (hours > 0) return `${hours} h ${two(minutes)} min ${rest} s`;
  if (minutes > 0) return `${minutes} min ${rest} s`;
  return `${seconds} s`;
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
    this.show();
  }

  show() {
    const passed = Math.floor((performance.now() - this.since) / 1000);
    const now = Math.max(this.seconds + this.direction * passed, 0);
    this.element.textContent = inWords(now);
    return now;
  }
}

const ageElement = document.getElementById("age");
const leftElement = document.getElementById("left");
const age = ageElement && new Clock(ageElement, 1);
const left = leftElement && new Clock(leftElement, -1);

function tick() {
  if (age) age.show();
  if (left) {
    const isOver = left.show() === 0;
    leftElement.hidden = isOver;
    document.getElementById("over").hidden = !isOver;
  }
}

setInterval(tick, 250);

// -- parallel requests ------------------------------------------------------

const button = document.getElementById("fire");
const dots = document.getElementById("dots");
const result = document.getElementById("result");

async function ask(url, options) {
  const response = await fetch(url, options);
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  return response.json();
}

function drawDots() {
  const all = Array.from({ length: CHAINS * STEPS }, () =>
    document.createElement("i"),
  );
  dots.replaceChildren(...all);
  return all;
}

// One after the other: within a chain all requests change the same key.
async function runChain(chain, chainDots) {
  const token = document.querySelector("meta[name=csrf-token]").content;
  const options = { method: "POST", headers: { "X-CSRF-Token": token } };
  for (const dot of chainDots) {
    try {
      await ask(button.dataset.increment + chain, options);
      dot.className = "answered";
    } catch {
      dot.className = "refused";
    }
  }
}

function report(kept, milliseconds) {
  const fired = CHAINS * STEPS;
  const isGood = kept === fired;
  const refused = dots.querySelectorAll(".refused").length;
  const lost = fired - kept - refused;
  const seconds = (milliseconds / 1000).toFixed(1);
  let text = `${kept} of ${fired} increments kept, in ${seconds} s.`;
  if (lost > 0) text += ` ${lost} were lost.`;
  if (refused > 0) text += ` ${refused} were refused: reload the page.`;
  result.textContent = text;
  result.className = isGood ? "good" : "bad";
}

// A browser holds some of the requests back (with HTTP/1.1 all but six), so
// the chains do not all run at once; those that do overlap are enough.
async function fire() {
  const before = await ask(button.dataset.totals);
  const all = drawDots();
  const began = performance.now();
  await Promise.all(
    Array.from({ length: CHAINS }, (_, chain) =>
      runChain(chain, all.slice(chain * STEPS, (chain + 1) * STEPS)),
    ),
  );
  const milliseconds = performance.now() - began;
  const after = await ask(button.dataset.totals);
  report(after.total - before.total, milliseconds);
  if (left && after.expires_in !== null) left.set(after.expires_in);
}

if (button) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    result.className = "";
    result.textContent = "40 requests are under way …";
    try {
      await fire();
    } catch (error) {
      result.className = "bad";
      result.textContent = `That did not work: ${error.message}.`;
    } finally {
      button.disabled = false;
    }
  });
}
