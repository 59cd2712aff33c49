// Client of the server's HTTP API.

export class HTTPError extends Error {
  constructor(status, message, retryAfterSeconds) {
    super(message);
    this.status = status;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

function parseError(status, body, retryAfter) {
  let message = `The server answered with status ${status}.`;
  try { message = JSON.parse(body).error.message; } catch { /* not JSON, such as the page of a proxy */ }
  return new HTTPError(status, message, Number(retryAfter) || 0);
}

async function request(path, options = {}) {
  const response = await fetch(path, options);
  if (!response.ok) {
    throw parseError(response.status, await response.text(), response.headers.get("Retry-After"));
  }
  return response;
}

export const login = (token) => request("/v1/login", { method: "POST", body: token });
export const getServerInfo = async () => (await request("/v1/server")).json();
export const listVideos = async () => (await request("/v1/videos")).json();
export const getVideo = async (id) => (await request(`/v1/videos/${id}`)).json();
export const openVideo = async (url) => (await request("/v1/videos/open", { method: "POST", body: url })).json();

// Upload a file with XMLHttpRequest, since fetch does not report progress.
export function uploadVideo(file, onProgress) {
  return new Promise((resolve, reject) => {
    const upload = new XMLHttpRequest();
    upload.open("POST", `/v1/videos?name=${encodeURIComponent(file.name)}`);
    upload.setRequestHeader("Content-Type", "application/octet-stream");
    upload.upload.onprogress = (event) => onProgress(event.loaded, event.total);
    upload.onerror = () => reject(new Error("The connection to the server was lost."));
    upload.onload = () => {
      if (upload.status === 201) resolve(JSON.parse(upload.responseText));
      else reject(parseError(upload.status, upload.responseText, upload.getResponseHeader("Retry-After")));
    };
    upload.send(file);
  });
}

// Where the model looked for a complete answer: { moments, curve }. The server computes it at this request.
export const getEvidence = async (id, signal) => (await (await request(`/v1/chat/completions/${id}/evidence`, { signal })).json()).evidence;

// Summary, chapters and events of a video. The server computes them at the first request, which takes minutes for an hour.
export const getDescription = async (id, signal) => (await request(`/v1/videos/${id}/description`, { signal })).json();

// Yield the pieces of an answer as { id, text }; `id` is that of the completion. `sampling` has fields of the request.
export async function* streamAnswer(model, messages, sampling, signal) {
  const body = JSON.stringify({ model, messages, ...sampling, stream: true });
  const headers = { "Content-Type": "application/json" };
  const response = await request("/v1/chat/completions", { method: "POST", headers, body, signal });
  for await (const event of parseEvents(response.body)) {
    if (event.error) throw new HTTPError(event.error.code, event.error.message, 0);
    const text = event.choices[0].delta.content;
    if (text) yield { id: event.id, text };
  }
}

async function* parseEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("The connection to the server was lost.");
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      if (block === "data: [DONE]") return;
      if (block.startsWith("data: ")) yield JSON.parse(block.slice(6));
    }
  }
}
