// The way of a video through the page: chosen, sent, remembered, asked about.

import { beginTalk } from "./conversation.js";
import * as server from "./server.js";
import { leaveVideo, showPictures, showVideo, spell } from "./timeline.js";

const POLL_MILLISECONDS = 500;

const byId = (id) => document.getElementById(id);

let about = null; // what the server says of itself
let coming = 0; // counts up with each video that is opened, so that an earlier one does not come back

async function start() {
  const words = new URLSearchParams(location.hash.slice(1));
  if (words.has("token")) {
    history.replaceState(null, "", location.pathname); // it stays in no history and on no screen
    await server.login(words.get("token")).catch(() => {});
  }
  about = await describeServer();
  byId("model").textContent = about.model;
  byId("limits").textContent = `Up to ${spellSize(about.max_upload_mb)} and ${spellLength(about.max_video_seconds)} long`;
  const video = words.get("video") && await server.describeVideo(words.get("video")).catch(() => null);
  if (video) await enter(video);
  else await showWelcome();
}

async function describeServer() {
  for (;;) {
    try {
      return await server.describeServer();
    } catch (error) {
      if (error.status !== 401) throw error;
      await askForToken();
    }
  }
}

async function askForToken() {
  const dialog = byId("login");
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  const token = byId("token").value;
  byId("token").value = "";
  await server.login(token).then(
    () => { byId("login-trouble").textContent = ""; },
    (error) => { byId("login-trouble").textContent = error.message; },
  );
}

async function showWelcome() {
  coming += 1;
  history.replaceState(null, "", location.pathname);
  byId("room").hidden = byId("another").hidden = true;
  byId("welcome").hidden = false;
  const { data, files } = await server.listVideos();
  const kept = data.filter((video) => video.state !== "refused");
  const items = [
    ...kept.reverse().map((video) => listed(video.name, spell(video.duration_seconds), () => enter(video))),
    ...files.filter((file) => !kept.some((video) => video.url === file.url))
      .map((file) => listed(file.name, "", () => openFile(file))),
  ];
  byId("videos").replaceChildren(...items);
  byId("shelf").hidden = !items.length;
}

function listed(name, detail, onClick) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const [title, rest] = [document.createElement("span"), document.createElement("span")];
  button.type = "button";
  title.textContent = name;
  rest.textContent = detail;
  rest.className = "quiet";
  button.append(title, rest);
  button.onclick = onClick;
  item.append(button);
  return item;
}

async function openFile(file) {
  await enterWith(file.name, async () => server.openVideo(file.url));
}

async function send(file) {
  if (file.size > about.max_upload_mb * 1e6) {
    return complain(`${file.name} has ${spellSize(file.size / 1e6)}, and this server takes ${spellSize(about.max_upload_mb)}`);
  }
  await enterWith(file.name, (mine) => server.sendVideo(file, (sent, total) => {
    if (mine !== coming) return;
    const share = total ? sent / total : 0;
    showProgress(share < 1 ? `Sending: ${Math.floor(100 * share)}%` : "Checking the video", share < 1 ? share : null);
  }));
}

// Shows the room while the video is on its way to the server.
async function enterWith(name, bring) {
  const mine = (coming += 1);
  showRoom(name);
  showProgress("Opening the video", null);
  try {
    const video = await bring(mine);
    if (mine === coming) await enter(video);
  } catch (error) {
    if (mine !== coming) return;
    complain(error.message);
    await showWelcome();
  }
}

async function enter(video) {
  const mine = (coming += 1);
  showRoom(video.name);
  history.replaceState(null, "", `#video=${video.id}`);
  showVideo(video.id, video.name, video.duration_seconds);
  beginTalk(about.model, video.id);
  byId("ask").inert = false;
  byId("question").focus();
  await watch(video, mine).catch((error) => {
    if (mine !== coming) return;
    complain(error.message);
    return showWelcome();
  });
}

// Looks how far the video is remembered, until it is.
async function watch(video, mine) {
  while (mine === coming && ["waiting", "remembering"].includes(video.state)) {
    showReading(video);
    await new Promise((resolve) => setTimeout(resolve, POLL_MILLISECONDS));
    video = await server.describeVideo(video.id);
  }
  if (mine !== coming) return;
  if (video.state === "refused") throw new Error(video.reason);
  byId("progress").hidden = true;
  showPictures(video.id, video.pictures);
  byId("news").textContent = ["The video is remembered. Ask a question.", ...video.notes].join(" ");
  if (video.notes.length) complain(video.notes.join(" "));
}

function showReading({ num_frames: all, frames_read: read, seconds_left: left }) {
  if (!all) return showProgress("Waiting to be watched", null);
  const time = left === null ? "" : `, about ${left < 90 ? `${Math.ceil(left)} s` : `${Math.round(left / 60)} min`} left`;
  showProgress(`Watching: ${read.toLocaleString("en")} of ${all.toLocaleString("en")} frames${time}`, read / all);
}

function showRoom(name) {
  byId("trouble").hidden = byId("welcome").hidden = byId("map").hidden = true;
  byId("room").hidden = byId("another").hidden = false;
  byId("name").textContent = name;
  byId("ask").inert = true;
  leaveVideo();
}

function showProgress(text, share) {
  byId("progress").hidden = false;
  byId("progress-text").textContent = text;
  if (share === null) byId("bar").removeAttribute("value");
  else byId("bar").value = share;
}

function complain(reason) {
  byId("trouble").textContent = reason;
  byId("trouble").hidden = false;
}

const spellSize = (megabytes) => (megabytes >= 1000 ? `${+(megabytes / 1000).toFixed(1)} GB` : `${Math.ceil(megabytes)} MB`);

const spellLength = (seconds) => (seconds >= 7200 ? `${+(seconds / 3600).toFixed(1)} hours` : `${Math.round(seconds / 60)} minutes`);

byId("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (file) send(file);
});
byId("another").addEventListener("click", () => {
  leaveVideo();
  showWelcome().then(() => byId("file").focus());
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("curtain").hidden = false;
});
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("curtain").hidden = true; });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("curtain").hidden = true;
  const [file] = event.dataTransfer.files;
  if (file && about) send(file);
});

start().catch((error) => complain(error.message));
