// The steps of a video through the page: chosen, uploaded, encoded, asked about.

import * as api from "./api.js";
import { startChapters } from "./chapters.js";
import { cancelRequests, startConversation } from "./conversation.js";
import { formatTime, seek, showThumbnails, showVideo, unloadVideo } from "./timeline.js";

const POLL_MILLISECONDS = 500;

const byId = (id) => document.getElementById(id);

let serverInfo = null; // model name and limits
let latestVisit = 0; // number of the latest opened video; steps of earlier ones check it and stop

async function start() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  if (fragment.has("token")) {
    history.replaceState(null, "", location.pathname); // keep the token out of the history
    await api.login(fragment.get("token")).catch(() => {});
  }
  serverInfo = await loadServerInfo();
  byId("model").textContent = serverInfo.model;
  byId("limits").textContent = `Up to ${formatSize(serverInfo.max_upload_mb)} and ${formatLength(serverInfo.max_video_seconds)} long`;
  const video = fragment.get("video") && await api.getVideo(fragment.get("video")).catch(() => null);
  if (video) await enter(video, Number(fragment.get("t")) || 0);
  else await showWelcome();
}

async function loadServerInfo() {
  for (;;) {
    try {
      return await api.getServerInfo();
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
  await api.login(token).then(
    () => { byId("login-error").textContent = ""; },
    (error) => { byId("login-error").textContent = error.message; },
  );
}

async function showWelcome() {
  latestVisit += 1;
  history.replaceState(null, "", location.pathname);
  byId("workspace").hidden = byId("new-video").hidden = true;
  byId("welcome").hidden = false;
  const { data, files } = await api.listVideos();
  const stored = data.filter((video) => video.status !== "failed");
  const items = [
    ...stored.reverse().map((video) => createItem(video.name, formatTime(video.duration_seconds), () => enter(video))),
    ...files.filter((file) => !stored.some((video) => video.url === file.url))
      .map((file) => createItem(file.name, "", () => openFile(file))),
  ];
  byId("videos").replaceChildren(...items);
  byId("library").hidden = !items.length;
}

function createItem(name, detail, onClick) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const [nameElement, detailElement] = [document.createElement("span"), document.createElement("span")];
  button.type = "button";
  nameElement.textContent = name;
  detailElement.textContent = detail;
  detailElement.className = "muted";
  button.append(nameElement, detailElement);
  button.onclick = onClick;
  item.append(button);
  return item;
}

async function openFile(file) {
  await enterWith(file.name, async () => api.openVideo(file.url));
}

async function upload(file) {
  if (file.size > serverInfo.max_upload_mb * 1e6) {
    return showError(`${file.name} has ${formatSize(file.size / 1e6)}. This server accepts up to ${formatSize(serverInfo.max_upload_mb)}.`);
  }
  await enterWith(file.name, (visit) => api.uploadVideo(file, (sent, total) => {
    if (visit !== latestVisit) return;
    const share = total ? sent / total : 0;
    showProgress(share < 1 ? `Uploading: ${Math.floor(100 * share)}%` : "Checking the video", share < 1 ? share : null);
  }));
}

// Show the workspace while `load` adds the video to the server.
async function enterWith(name, load) {
  const visit = (latestVisit += 1);
  showWorkspace(name);
  showProgress("Opening the video", null);
  try {
    const video = await load(visit);
    if (visit === latestVisit) await enter(video);
  } catch (error) {
    if (visit !== latestVisit) return;
    showError(error.message);
    await showWelcome();
  }
}

async function enter(video, seconds = 0) {
  const visit = (latestVisit += 1);
  showWorkspace(video.name);
  history.replaceState(null, "", seconds ? `#video=${video.id}&t=${seconds}` : `#video=${video.id}`);
  showVideo(video.id, video.name, video.duration_seconds);
  if (seconds) seek(seconds);
  startConversation(serverInfo.model, video.id);
  startChapters(video.id);
  byId("ask").inert = false;
  byId("question").focus();
  await pollUntilReady(video, visit).catch((error) => {
    if (visit !== latestVisit) return;
    showError(error.message);
    return showWelcome();
  });
}

async function pollUntilReady(video, visit) {
  while (visit === latestVisit && ["queued", "encoding"].includes(video.status)) {
    showEncoding(video);
    await new Promise((resolve) => setTimeout(resolve, POLL_MILLISECONDS));
    video = await api.getVideo(video.id);
  }
  if (visit !== latestVisit) return;
  if (video.status === "failed") throw new Error(video.error);
  byId("progress").hidden = true;
  showThumbnails(video.id, video.thumbnails);
  byId("status").textContent = ["The video is ready. Ask a question.", ...video.warnings].join(" ");
  if (video.warnings.length) showError(video.warnings.join(" "));
}

function showEncoding({ num_frames: total, num_encoded_frames: encoded, eta_seconds: eta }) {
  if (!total) return showProgress("Waiting for other videos", null);
  const remaining = eta === null ? "" : `, about ${eta < 90 ? `${Math.ceil(eta)} s` : `${Math.round(eta / 60)} min`} left`;
  showProgress(`Encoding: ${encoded.toLocaleString("en")} of ${total.toLocaleString("en")} frames${remaining}`, encoded / total);
}

function showWorkspace(name) {
  byId("error").hidden = byId("welcome").hidden = byId("timeline-panel").hidden = true;
  byId("workspace").hidden = byId("new-video").hidden = false;
  byId("video-name").textContent = name;
  byId("ask").inert = true;
  unloadVideo();
}

function showProgress(text, share) {
  byId("progress").hidden = false;
  byId("progress-text").textContent = text;
  if (share === null) byId("bar").removeAttribute("value");
  else byId("bar").value = share;
}

function showError(message) {
  byId("error").textContent = message;
  byId("error").hidden = false;
}

const formatSize = (megabytes) => (megabytes >= 1000 ? `${+(megabytes / 1000).toFixed(1)} GB` : `${Math.ceil(megabytes)} MB`);

const formatLength = (seconds) => (seconds >= 7200 ? `${+(seconds / 3600).toFixed(1)} hours` : `${Math.round(seconds / 60)} minutes`);

byId("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (file) upload(file);
});
byId("new-video").addEventListener("click", () => {
  cancelRequests();
  unloadVideo();
  showWelcome().then(() => byId("file").focus());
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("drop-overlay").hidden = false;
});
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("drop-overlay").hidden = true; });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop-overlay").hidden = true;
  const [file] = event.dataTransfer.files;
  if (file && serverInfo) upload(file);
});

start().catch((error) => showError(error.message));
