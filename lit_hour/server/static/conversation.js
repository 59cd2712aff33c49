// Questions and streamed answers about one video, each with the moments where it was found.

import { ask } from "./server.js";
import { clearEvidence, seek, showEvidence, spell } from "./timeline.js";

const MAX_TRIES = 6; // of a question that the server has no time for

const byId = (id) => document.getElementById(id);
const question = byId("question");

let talk = null; // { model, video, turns: [{ asked, answered }], stopping: AbortController | null }

export function beginTalk(model, video) {
  talk?.stopping?.abort();
  talk = { model, video, turns: [], stopping: null };
  byId("conversation").replaceChildren();
  question.value = "";
  showBusy(false);
}

function messages(asked) {
  const turns = talk.turns.flatMap((turn) => [{ role: "user", content: turn.asked }, { role: "assistant", content: turn.answered }]);
  const [first, ...rest] = [...turns, { role: "user", content: asked }];
  const video = { type: "video_url", video_url: { url: talk.video } };
  return [{ role: "user", content: [video, { type: "text", text: first.content }] }, ...rest];
}

async function answer(asked) {
  const mine = talk;
  const { words, found } = addTurn(asked);
  mine.stopping = new AbortController();
  showBusy(true);
  clearEvidence();
  try {
    for await (const event of patiently(mine, asked, words)) {
      if (mine !== talk) return;
      if (event.piece) words.textContent += event.piece;
      if (event.found) showFound(found, event.found.evidence, words.textContent);
      stayBelow();
    }
    if (!words.textContent) words.textContent = "(no answer)";
  } catch (error) {
    if (error.name === "AbortError") byId("news").textContent = "Stopped.";
    else fail(words, error.message);
  } finally {
    words.classList.remove("open");
    mine.stopping = null;
    if (mine === talk) {
      if (words.textContent && !words.classList.contains("failed")) mine.turns.push({ asked, answered: words.textContent });
      showBusy(false);
    }
  }
}

// Asks again when the server says that it is busy, after as long as it says.
async function* patiently(mine, asked, words) {
  for (let tries = 1; ; tries += 1) {
    try {
      yield* ask(mine.model, messages(asked), mine.stopping.signal);
      return;
    } catch (error) {
      if (error.status !== 429 || tries === MAX_TRIES) throw error;
      byId("news").textContent = `The server is busy; asking again in ${error.retryAfterSeconds} s.`;
      await pause(1000 * (error.retryAfterSeconds || 1), mine.stopping.signal);
    }
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}

function addTurn(asked) {
  const item = document.createElement("li");
  const [said, words, found] = ["p", "p", "div"].map((tag) => document.createElement(tag));
  said.className = "asked";
  said.textContent = asked;
  words.className = "answer open";
  found.className = "found";
  found.hidden = true;
  item.append(said, words, found);
  byId("conversation").append(item);
  stayBelow();
  return { words, found };
}

function showFound(found, evidence, text) {
  const times = evidence.moments.map((moment) => [spell(moment.start_seconds), spell(moment.end_seconds)]);
  found.replaceChildren(...evidence.moments.map((moment, place) => {
    const [start, end] = times[place];
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `${start} – ${end}`;
    button.ariaLabel = `Found from ${start} to ${end}: go there`;
    button.onclick = () => { showEvidence(evidence); seek(moment.start_seconds); };
    return button;
  }));
  found.hidden = !evidence.moments.length;
  showEvidence(evidence);
  const where = times.map(([start, end]) => `${start} to ${end}`).join(", ");
  byId("news").textContent = where ? `${text}. Found at ${where}.` : text;
}

function fail(words, reason) {
  words.classList.add("failed");
  words.textContent = `That did not work: ${reason}`;
  byId("news").textContent = words.textContent;
}

function showBusy(busy) {
  byId("send").hidden = busy;
  byId("stop").hidden = !busy;
}

function stayBelow() {
  byId("conversation").lastElementChild?.scrollIntoView({ block: "end" });
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const asked = question.value.trim();
  if (!asked || talk.stopping) return;
  question.value = "";
  answer(asked);
});
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("ask").requestSubmit();
});
byId("stop").addEventListener("click", () => { talk.stopping?.abort(); question.focus(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") talk?.stopping?.abort(); });
