"use strict";

const form = document.getElementById("chat");
if (form) {
  const { model, temperature, max_tokens, system, text, send, stop, clear } = form.elements;
  const turns = document.getElementById("turns");
  const status = document.getElementById("status");
  let said = [];
  let running = null;

  const show = (role, content) => {
    const turn = document.createElement("div");
    turn.className = `turn ${role}`;
    turn.dir = "auto";
    turn.textContent = content;
    turns.append(turn);
    turn.scrollIntoView({ block: "nearest" });
    return turn;
  };

  /** The events of an answer's body, one by one. */
  async function* events(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) yield JSON.parse(part.slice("data: ".length));
    }
  }

  async function ask(question) {
    const messages = [...said, { role: "user", content: question }];
    if (system.value.trim()) messages.unshift({ role: "system", content: system.value });
    const asked = show("user", question);
    const turn = show("assistant", "");
    running = new AbortController();
    send.disabled = true;
    stop.disabled = false;
    status.textContent = "";
    let failed = "";
    let finish = "";
    try {
      const answer = await post(
        "/chat/answer",
        { model: model.value, messages, temperature: Number(temperature.value), max_tokens: Number(max_tokens.value) },
        running.signal,
      );
      if (!answer.ok) throw new Error(await answer.text());
      for await (const event of events(answer.body)) {
        if (event.text) turn.append(event.text);
        if (event.error) failed = event.error;
        if (event.finish_reason) finish = event.finish_reason;
      }
      if (!finish && !failed) failed = "the answer broke off";
    } catch (error) {
      if (error.name === "AbortError") finish = "stopped";
      else failed = error.message;
    }
    running = null;
    send.disabled = false;
    stop.disabled = true;
    if (failed) {
      // As in the terminal: a turn without an answer is forgotten.
      turn.className = "turn failed";
      turn.textContent = failed;
      asked.classList.add("failed");
      text.value = question;
      return;
    }
    if (finish !== "stop") status.textContent = finish === "stopped" ? "stopped" : "cut at its token limit";
    said.push({ role: "user", content: question }, { role: "assistant", content: turn.textContent });
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const question = text.value.trim();
    if (!question || running) return;
    text.value = "";
    ask(question);
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.ctrlKey) form.requestSubmit();
  });
  stop.addEventListener("click", () => running?.abort());
  clear.addEventListener("click", () => {
    running?.abort();
    said = [];
    turns.replaceChildren();
    status.textContent = "";
  });
}
