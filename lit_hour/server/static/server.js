// What the page asks of the server.

export class RefusedError extends Error {
  constructor(status, message, retryAfterSeconds) {
    super(message);
    this.status = status;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

function refusal(status, body, retryAfter) {
  let reason = `the server answered ${status}`;
  try { reason = JSON.parse(body).error.message; } catch { /* a proxy may answer in words of its own */ }
  return new RefusedError(status, reason, Number(retryAfter) || 0);
}

async function request(path, options = {}) {
  const reply = await fetch(path, options);
  if (!reply.ok) throw refusal(reply.status, await reply.text(), reply.headers.get("Retry-After"));
  return reply;
}

export const login = (token) => request("/v1/login", { method: "POST", body: token });
export const describeServer = async () => (await request("/v1/server")).json();
export const listVideos = async () => (await request("/v1/videos")).json();
export const describeVideo = async (id) => (await request(`/v1/videos/${id}`)).json();
export const openVideo = async (url) => (await request("/v1/videos/open", { method: "POST", body: url })).json();

// Sends a file, and says how far it is: fetch cannot do that.
export function sendVideo(file, onProgress) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.open("POST", `/v1/videos?name=${encodeURIComponent(file.name)}`);
    sending.setRequestHeader("Content-Type", "application/octet-stream");
    sending.upload.onprogress = (event) => onProgress(event.loaded, event.total);
    sending.onerror = () => reject(new Error("the connection to the server broke off"));
    sending.onload = () => {
      if (sending.status === 201) resolve(JSON.parse(sending.responseText));
      else reject(refusal(sending.status, sending.responseText, sending.getResponseHeader("Retry-After")));
    };
    sending.send(file);
  });
}

// Yields pieces of an answer as they come, and what the server found out about it last: {piece} or {found}.
export async function* ask(model, messages, signal) {
  const body = JSON.stringify({ model, messages, stream: true });
  const headers = { "Content-Type": "application/json" };
  const reply = await request("/v1/chat/completions", { method: "POST", headers, body, signal });
  for await (const event of events(reply.body)) {
    if (event.error) throw new RefusedError(event.error.code, event.error.message, 0);
    const piece = event.choices[0].delta.content;
    if (piece) yield { piece };
    if (event.lit_hour) yield { found: event.lit_hour };
  }
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("the connection to the server broke off");
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      if (block === "data: [DONE]") return;
      if (block.startsWith("data: ")) yield JSON.parse(block.slice(6));
    }
  }
}
