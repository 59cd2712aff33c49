// Questions and streamed answers about one video. Once an answer is complete, the page asks where the model looked.

import { getEvidence, streamAnswer } from "./api.js";
import { clearAttribution, formatTime, seekAndLink, showAttribution } from "./timeline.js";

const MAX_ATTEMPTS = 6; // per question while the server answers 429

const byId = (id) => document.getElementById(id);
const question = byId("question");

// { model, video, turns: [{ question, answer }], controller: AbortController | null, evidenceController }
let conversation = null;

export function startConversation(model, video) {
  cancelRequests();
  conversation = { model, video, turns: [], controller: null, evidenceController: new AbortController() };
  byId("conversation").replaceChildren();
  question.value = "";
  showBusy(false);
}

// Cancel the answer and the evidence that the server is computing.
export function cancelRequests() {
  if (!conversation) return;
  conversation.controller?.abort();
  conversation.evidenceController.abort();
  conversation.evidenceController = new AbortController();
}

function buildMessages(text) {
  const history = conversation.turns.flatMap((turn) => [{ role: "user", content: turn.question }, { role: "assistant", content: turn.answer }]);
  const [first, ...rest] = [...history, { role: "user", content: text }];
  const video = { type: "video_url", video_url: { url: conversation.video } };
  return [{ role: "user", content: [video, { type: "text", text: first.content }] }, ...rest];
}

// Without any value the server decodes greedily.
function readSampling() {
  const values = ["temperature", "top_p", "seed"].map((name) => [name, byId(name).value]);
  return Object.fromEntries(values.filter(([, value]) => value !== "").map(([name, value]) => [name, Number(value)]));
}

async function answer(text) {
  const current = conversation;
  const { answerElement, momentsElement } = addTurn(text);
  current.controller = new AbortController();
  const { signal } = current.controller;
  let completion = null;
  showBusy(true);
  clearAttribution();
  if (!byId("progress").hidden) { // the video is still being encoded
    momentsElement.textContent = "The answer follows when the video is encoded.";
    momentsElement.hidden = false;
    byId("status").textContent = momentsElement.textContent;
  }
  try {
    for await (const { id, text: piece } of retryWhileBusy(() => streamAnswer(current.model, buildMessages(text), readSampling(), signal), signal)) {
      if (current !== conversation) return;
      completion = id;
      momentsElement.hidden = true;
      answerElement.textContent += piece;
      scrollToEnd();
    }
    if (!answerElement.textContent) answerElement.textContent = "(no answer)";
    byId("status").textContent = answerElement.textContent;
  } catch (error) {
    completion = null; // only a complete answer has evidence
    if (error.name === "AbortError") byId("status").textContent = "Stopped.";
    else showFailure(answerElement, error.message);
  } finally {
    answerElement.classList.remove("streaming");
    momentsElement.hidden = true;
    current.controller = null;
    if (current === conversation) {
      if (answerElement.textContent && !answerElement.classList.contains("failed")) {
        current.turns.push({ question: text, answer: answerElement.textContent });
      }
      showBusy(false);
    }
  }
  if (completion && current === conversation) await showEvidence(momentsElement, completion, current);
}

// Show where the model looked, below its answer; a next question does not wait for it.
async function showEvidence(element, completion, current) {
  const { signal } = current.evidenceController;
  element.textContent = "Finding where the model looked …";
  element.hidden = false;
  scrollToEnd();
  try {
    const request = async function* () { yield await getEvidence(completion, signal); };
    for await (const evidence of retryWhileBusy(request, signal)) showMoments(element, evidence);
  } catch (error) {
    if (error.name === "AbortError") element.hidden = true;
    else element.textContent = `Where the model looked is not known: ${error.message}`;
  }
}

// Yield from request(). Try again while the server is busy, after the delay that it names.
async function* retryWhileBusy(request, signal) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      yield* request();
      return;
    } catch (error) {
      if (error.status !== 429 || attempt === MAX_ATTEMPTS) throw error;
      byId("status").textContent = `The server is busy. Trying again in ${error.retryAfterSeconds} s.`;
      await sleep(1000 * (error.retryAfterSeconds || 1), signal);
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

function showMoments(element, evidence) {
  const { moments } = evidence;
  const isLatest = element.parentElement === byId("conversation").lastElementChild;
  if (isLatest) showAttribution(evidence); // the timeline belongs to the latest answer
  if (!moments.length) {
    element.textContent = "The model looked at no moment in particular.";
    return;
  }
  const intervals = moments.map((moment) => [formatTime(moment.start_seconds), formatTime(moment.end_seconds)]);
  const label = document.createElement("span");
  label.textContent = "Where the model looked:";
  label.title = "The parts of the video with the most influence on this answer. They do not show that it is right.";
  element.replaceChildren(label, ...moments.map((moment, index) => {
    const [start, end] = intervals[index];
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `${start} – ${end}`;
    button.ariaLabel = `The model looked at ${start} to ${end}: play`;
    button.onclick = () => { showAttribution(evidence); seekAndLink(moment.start_seconds); };
    return button;
  }));
  if (!isLatest) return;
  scrollToEnd();
  byId("status").textContent = `The model looked at ${intervals.map(([start, end]) => `${start} to ${end}`).join(", ")}.`;
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
window.addEventListener("pagehide", cancelRequests); // a page in the browser's back-forward cache keeps its connections
