// The player, and below it the timeline with the attribution, and the thumbnails. Each can seek.

const ARROW_KEY_SECONDS = 5;
const PAGE_KEY_SECONDS = 60;

const byId = (id) => document.getElementById(id);
const player = byId("player");
const timeline = byId("timeline");

let durationSeconds = 0;
let positionSeconds = 0; // valid even if the browser cannot play the file
let thumbnails = []; // { seconds, url }

export function formatTime(seconds) {
  const total = Math.floor(seconds);
  const [hours, minutes, remainder] = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60];
  const secondsText = String(remainder).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${secondsText}` : `${minutes}:${secondsText}`;
}

export function showVideo(id, name, seconds) {
  durationSeconds = seconds;
  byId("video-name").textContent = name;
  byId("duration").textContent = formatTime(seconds);
  byId("unplayable").hidden = byId("still").hidden = true;
  player.hidden = false;
  thumbnails = [];
  player.src = `/v1/videos/${id}/file`;
  timeline.setAttribute("aria-valuemax", Math.floor(seconds));
  clearAttribution();
  setPosition(0);
}

export function unloadVideo() {
  player.pause();
  player.removeAttribute("src");
  player.load();
}

export function showThumbnails(id, times) {
  thumbnails = times.map((seconds, index) => ({ seconds, url: `/v1/videos/${id}/thumbnails/${index}` }));
  byId("thumbnails").replaceChildren(...thumbnails.map(({ seconds, url }) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const image = document.createElement("img");
    const label = document.createElement("span");
    button.type = "button";
    image.src = url;
    image.alt = `Thumbnail at ${formatTime(seconds)}`;
    label.textContent = formatTime(seconds);
    label.ariaHidden = "true";
    button.append(image, label);
    button.onclick = () => seek(seconds);
    item.append(button);
    return item;
  }));
  byId("timeline-panel").hidden = false;
  setPosition(positionSeconds);
}

export function clearAttribution() {
  byId("curve").firstElementChild.removeAttribute("d");
  byId("moments").replaceChildren();
  byId("caption").textContent = "";
}

export function showAttribution({ moments, curve }) {
  const toViewBox = (seconds) => (1000 * seconds) / durationSeconds;
  const highest = Math.max(...curve.map(([, value]) => value), Number.MIN_VALUE);
  const points = curve.map(([seconds, value]) => `${toViewBox(seconds).toFixed(1)},${(100 - (92 * value) / highest).toFixed(1)}`);
  const last = points.length ? points.at(-1).split(",")[1] : 100;
  byId("curve").firstElementChild.setAttribute("d", points.length ? `M-5,105 L${points.join(" L")} L1005,${last} L1005,105 Z` : "");
  byId("moments").replaceChildren(...moments.map((moment) => {
    const band = document.createElement("i");
    band.style.left = `${toViewBox(moment.start_seconds) / 10}%`;
    band.style.width = `${toViewBox(moment.end_seconds - moment.start_seconds) / 10}%`;
    return band;
  }));
  byId("caption").textContent = "where the model looked";
}

// Seek, and write the moment to the address of the page, so that it can be copied as a link.
export function seekAndLink(seconds) {
  seek(seconds);
  const fragment = new URLSearchParams(location.hash.slice(1));
  fragment.set("t", Math.floor(positionSeconds));
  history.replaceState(null, "", `#${fragment}`);
}

export function seek(seconds) {
  const target = Math.min(Math.max(seconds, 0), Math.max(durationSeconds - 0.05, 0));
  if (player.readyState > 0) player.currentTime = target;
  setPosition(target);
}

function setPosition(seconds) {
  positionSeconds = seconds;
  byId("playhead").style.left = `${durationSeconds ? (100 * seconds) / durationSeconds : 0}%`;
  timeline.setAttribute("aria-valuenow", Math.floor(seconds));
  timeline.setAttribute("aria-valuetext", `${formatTime(seconds)} of ${formatTime(durationSeconds)}`);
  if (player.hidden && thumbnails.length) {
    const nearer = (one, other) => (Math.abs(one.seconds - seconds) <= Math.abs(other.seconds - seconds) ? one : other);
    byId("still").src = thumbnails.reduce(nearer).url;
    byId("still").hidden = false;
  }
}

function secondsAt(event) {
  const box = timeline.getBoundingClientRect();
  return (Math.min(Math.max(event.clientX - box.left, 0), box.width) / box.width) * durationSeconds;
}

player.addEventListener("loadedmetadata", () => { if (positionSeconds) player.currentTime = positionSeconds; });
player.addEventListener("timeupdate", () => setPosition(player.currentTime));
player.addEventListener("error", () => {
  if (!player.hasAttribute("src")) return;
  player.hidden = true;
  byId("unplayable").hidden = false;
  setPosition(positionSeconds);
});

timeline.addEventListener("pointerdown", (event) => {
  timeline.setPointerCapture(event.pointerId);
  seek(secondsAt(event));
});
timeline.addEventListener("pointermove", (event) => {
  const seconds = secondsAt(event);
  const hoverTime = byId("hover-time");
  hoverTime.hidden = false;
  hoverTime.textContent = formatTime(seconds);
  hoverTime.style.left = `${(100 * seconds) / durationSeconds}%`;
  if (timeline.hasPointerCapture(event.pointerId)) seek(seconds);
});
timeline.addEventListener("pointerleave", () => { byId("hover-time").hidden = true; });

timeline.addEventListener("keydown", (event) => {
  const steps = {
    ArrowLeft: -ARROW_KEY_SECONDS, ArrowDown: -ARROW_KEY_SECONDS, ArrowRight: ARROW_KEY_SECONDS, ArrowUp: ARROW_KEY_SECONDS,
    PageDown: -PAGE_KEY_SECONDS, PageUp: PAGE_KEY_SECONDS, Home: -Infinity, End: Infinity,
  };
  if (event.key in steps) seek(positionSeconds + steps[event.key]);
  else if (event.key === "Enter" || event.key === " ") player.paused ? player.play() : player.pause();
  else return;
  event.preventDefault();
});
