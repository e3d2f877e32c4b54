// Fires the parallel requests.
"use strict";

const CHAINS = 8;
const STEPS = 5;

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
  // It was activity, which timeout.js wants to know.
  document.dispatchEvent(new Event("activity"));
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
