// Questions and streamed answers about one video, each with the moments that the answer is based on.

import { streamAnswer } from "./api.js";
import { clearAttribution, formatTime, seek, showAttribution } from "./timeline.js";

const MAX_ATTEMPTS = 6; // per question while the server answers 429

const byId = (id) => document.getElementById(id);
const question = byId("question");

let conversation = null; // { model, video, turns: [{ question, answer }], controller: AbortController | null }

export function startConversation(model, video) {
  conversation?.controller?.abort();
  conversation = { model, video, turns: [], controller: null };
  byId("conversation").replaceChildren();
  question.value = "";
  showBusy(false);
}

function buildMessages(text) {
  const history = conversation.turns.flatMap((turn) => [{ role: "user", content: turn.question }, { role: "assistant", content: turn.answer }]);
  const [first, ...rest] = [...history, { role: "user", content: text }];
  const video = { type: "video_url", video_url: { url: conversation.video } };
  return [{ role: "user", content: [video, { type: "text", text: first.content }] }, ...rest];
}

async function answer(text) {
  const current = conversation;
  const { answerElement, momentsElement } = addTurn(text);
  current.controller = new AbortController();
  showBusy(true);
  clearAttribution();
  try {
    for await (const event of streamWithRetries(current, text)) {
      if (current !== conversation) return;
      if (event.text) answerElement.textContent += event.text;
      if (event.extension) showMoments(momentsElement, event.extension.attribution, answerElement.textContent);
      scrollToEnd();
    }
    if (!answerElement.textContent) answerElement.textContent = "(no answer)";
  } catch (error) {
    if (error.name === "AbortError") byId("status").textContent = "Stopped.";
    else showFailure(answerElement, error.message);
  } finally {
    answerElement.classList.remove("streaming");
    current.controller = null;
    if (current === conversation) {
      if (answerElement.textContent && !answerElement.classList.contains("failed")) {
        current.turns.push({ question: text, answer: answerElement.textContent });
      }
      showBusy(false);
    }
  }
}

// Try again while the server is busy, after the delay that it names.
async function* streamWithRetries(current, text) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      yield* streamAnswer(current.model, buildMessages(text), current.controller.signal);
      return;
    } catch (error) {
      if (error.status !== 429 || attempt === MAX_ATTEMPTS) throw error;
      byId("status").textContent = `The server is busy. Trying again in ${error.retryAfterSeconds} s.`;
      await sleep(1000 * (error.retryAfterSeconds || 1), current.controller.signal);
    }
  }
}

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}

function addTurn(text) {
  const item = document.createElement("li");
  const [questionElement, answerElement, momentsElement] = ["p", "p", "div"].map((tag) => document.createElement(tag));
  questionElement.className = "question";
  questionElement.textContent = text;
  answerElement.className = "answer streaming";
  momentsElement.className = "moments";
  momentsElement.hidden = true;
  item.append(questionElement, answerElement, momentsElement);
  byId("conversation").append(item);
  scrollToEnd();
  return { answerElement, momentsElement };
}

function showMoments(element, attribution, text) {
  const intervals = attribution.moments.map((moment) => [formatTime(moment.start_seconds), formatTime(moment.end_seconds)]);
  element.replaceChildren(...attribution.moments.map((moment, index) => {
    const [start, end] = intervals[index];
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `${start} – ${end}`;
    button.ariaLabel = `Based on ${start} to ${end}: play`;
    button.onclick = () => { showAttribution(attribution); seek(moment.start_seconds); };
    return button;
  }));
  element.hidden = !attribution.moments.length;
  showAttribution(attribution);
  const spoken = intervals.map(([start, end]) => `${start} to ${end}`).join(", ");
  byId("status").textContent = spoken ? `${text}. Based on ${spoken}.` : text;
}

function showFailure(element, message) {
  element.classList.add("failed");
  element.textContent = `Error: ${message}`;
  byId("status").textContent = element.textContent;
}

function showBusy(isBusy) {
  byId("send").hidden = isBusy;
  byId("stop").hidden = !isBusy;
}

function scrollToEnd() {
  byId("conversation").lastElementChild?.scrollIntoView({ block: "end" });
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (!text || conversation.controller) return;
  question.value = "";
  answer(text);
});
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("ask").requestSubmit();
});
byId("stop").addEventListener("click", () => { conversation.controller?.abort(); question.focus(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") conversation?.controller?.abort(); });
