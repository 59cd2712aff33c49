// The player, and under it the timeline with the evidence and the pictures: all of them seek.

const STEP_SECONDS = 5;
const LEAP_SECONDS = 60;

const byId = (id) => document.getElementById(id);
const player = byId("player");
const timeline = byId("timeline");

let durationSeconds = 0;
let positionSeconds = 0; // also for a file that the browser cannot play
let pictures = []; // { seconds, url }

export function spell(seconds) {
  const whole = Math.floor(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const tail = String(rest).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}

export function showVideo(id, name, seconds) {
  durationSeconds = seconds;
  byId("name").textContent = name;
  byId("end").textContent = spell(seconds);
  byId("unplayable").hidden = byId("still").hidden = true;
  player.hidden = false;
  pictures = [];
  player.src = `/v1/videos/${id}/file`;
  timeline.setAttribute("aria-valuemax", Math.floor(seconds));
  clearEvidence();
  moveTo(0);
}

export function leaveVideo() {
  player.pause();
  player.removeAttribute("src");
  player.load();
}

export function showPictures(id, moments) {
  pictures = moments.map((seconds, place) => ({ seconds, url: `/v1/videos/${id}/pictures/${place}` }));
  byId("pictures").replaceChildren(...pictures.map(({ seconds, url }) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const image = document.createElement("img");
    const label = document.createElement("span");
    button.type = "button";
    image.src = url;
    image.alt = `Picture at ${spell(seconds)}`;
    label.textContent = spell(seconds);
    label.ariaHidden = "true";
    button.append(image, label);
    button.onclick = () => seek(seconds);
    item.append(button);
    return item;
  }));
  byId("map").hidden = false;
  moveTo(positionSeconds);
}

export function clearEvidence() {
  byId("curve").firstElementChild.removeAttribute("d");
  byId("moments").replaceChildren();
  byId("caption").textContent = "";
}

export function showEvidence({ moments, curve }) {
  const across = (seconds) => (1000 * seconds) / durationSeconds;
  const highest = Math.max(...curve.map(([, value]) => value), Number.MIN_VALUE);
  const points = curve.map(([seconds, value]) => `${across(seconds).toFixed(1)},${(100 - (92 * value) / highest).toFixed(1)}`);
  const last = points.length ? points.at(-1).split(",")[1] : 100;
  byId("curve").firstElementChild.setAttribute("d", points.length ? `M-5,105 L${points.join(" L")} L1005,${last} L1005,105 Z` : "");
  byId("moments").replaceChildren(...moments.map((moment) => {
    const band = document.createElement("i");
    band.style.left = `${across(moment.start_seconds) / 10}%`;
    band.style.width = `${across(moment.end_seconds - moment.start_seconds) / 10}%`;
    return band;
  }));
  byId("caption").textContent = "where the answer was found";
}

export function seek(seconds) {
  const target = Math.min(Math.max(seconds, 0), Math.max(durationSeconds - 0.05, 0));
  if (player.readyState > 0) player.currentTime = target;
  moveTo(target);
}

function moveTo(seconds) {
  positionSeconds = seconds;
  byId("playhead").style.left = `${durationSeconds ? (100 * seconds) / durationSeconds : 0}%`;
  timeline.setAttribute("aria-valuenow", Math.floor(seconds));
  timeline.setAttribute("aria-valuetext", `${spell(seconds)} of ${spell(durationSeconds)}`);
  if (player.hidden && pictures.length) {
    const near = (one, other) => (Math.abs(one.seconds - seconds) <= Math.abs(other.seconds - seconds) ? one : other);
    byId("still").src = pictures.reduce(near).url;
    byId("still").hidden = false;
  }
}

function secondsAt(event) {
  const box = timeline.getBoundingClientRect();
  return (Math.min(Math.max(event.clientX - box.left, 0), box.width) / box.width) * durationSeconds;
}

player.addEventListener("timeupdate", () => moveTo(player.currentTime));
player.addEventListener("error", () => {
  if (!player.hasAttribute("src")) return;
  player.hidden = true;
  byId("unplayable").hidden = false;
  moveTo(positionSeconds);
});

timeline.addEventListener("pointerdown", (event) => {
  timeline.setPointerCapture(event.pointerId);
  seek(secondsAt(event));
});
timeline.addEventListener("pointermove", (event) => {
  const seconds = secondsAt(event);
  const pointed = byId("pointed");
  pointed.hidden = false;
  pointed.textContent = spell(seconds);
  pointed.style.left = `${(100 * seconds) / durationSeconds}%`;
  if (timeline.hasPointerCapture(event.pointerId)) seek(seconds);
});
timeline.addEventListener("pointerleave", () => { byId("pointed").hidden = true; });

timeline.addEventListener("keydown", (event) => {
  const steps = {
    ArrowLeft: -STEP_SECONDS, ArrowDown: -STEP_SECONDS, ArrowRight: STEP_SECONDS, ArrowUp: STEP_SECONDS,
    PageDown: -LEAP_SECONDS, PageUp: LEAP_SECONDS, Home: -Infinity, End: Infinity,
  };
  if (event.key in steps) seek(positionSeconds + steps[event.key]);
  else if (event.key === "Enter" || event.key === " ") player.paused ? player.play() : player.pause();
  else return;
  event.preventDefault();
});
