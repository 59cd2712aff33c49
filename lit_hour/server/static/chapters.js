// The chapters of a video, on request: a list to seek by, and a track of the player.

import * as api from "./api.js";
import { formatTime, seekAndLink } from "./timeline.js";

const byId = (id) => document.getElementById(id);

let videoId = "";
let request = null; // AbortController of the description that is being computed

export function startChapters(id) {
  request?.abort();
  videoId = id;
  byId("describe").hidden = false;
  byId("describe").disabled = false;
  byId("summary").textContent = "";
  byId("chapters").replaceChildren();
  byId("player").querySelector("track")?.remove();
}

async function describe() {
  const id = videoId;
  request = new AbortController();
  byId("describe").disabled = true;
  byId("summary").textContent = "Describing the video. This takes a while; you can ask meanwhile.";
  try {
    const description = await api.getDescription(id, request.signal);
    if (id === videoId) showChapters(id, description);
  } catch (error) {
    if (id !== videoId) return;
    byId("summary").textContent = error.message;
    byId("describe").disabled = false;
  }
}

function showChapters(id, { summary, chapters, duration_seconds: durationSeconds }) {
  byId("describe").hidden = true;
  byId("summary").textContent = summary || `${chapters.length} chapters`;
  byId("chapters").replaceChildren(...chapters.map((chapter) => {
    const [item, button, time] = ["li", "button", "time"].map((name) => document.createElement(name));
    button.type = "button";
    time.textContent = formatTime(chapter.start_seconds);
    time.className = "muted";
    button.append(time, ` ${chapter.title || formatTime(Math.min(chapter.end_seconds, durationSeconds))}`);
    button.title = chapter.text;
    button.onclick = () => seekAndLink(chapter.start_seconds);
    item.append(button);
    return item;
  }));
  const track = document.createElement("track");
  Object.assign(track, { kind: "chapters", src: `/v1/videos/${id}/chapters.vtt`, default: true });
  byId("player").append(track);
}

byId("describe").addEventListener("click", describe);
