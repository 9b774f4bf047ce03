"""`medgpt chat`: talk to a model in the terminal, or pipe lines in and answers out.

Every turn is rendered anew from the whole conversation by the model's own chat template, so the
model sees what it was trained on. Answers go to the standard output, all else to standard error.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from medgpt_ray.config.schema import Model
from medgpt_ray.data.requests import render
from medgpt_ray.data.rows import BadRow
from medgpt_ray.models.chat_model import ChatModel, Sampling
from medgpt_ray.models.errors import ModelError
from medgpt_ray.models.load import inference_dtype, resolve_model
from medgpt_ray.models.merge import starting_model
from medgpt_ray.tracking.rundir import write_atomically

HELP = """\
/system TEXT      set the system prompt; without TEXT there is none
/clear            forget the conversation, not the system prompt
/save FILE.jsonl  write the conversation as a row of training data
/adapter on|off   of a LoRA run: with what it trained, or without
/exit             or the end of the input; Ctrl-C stops an answer
A question that begins with / has a space before it."""


def chat(path: str, system: str | None, sampling: Sampling, dtype: str | None, seed: int) -> None:
    """Until the input ends. Raises `ModelError` for a model that cannot chat."""
    disable_progress_bar()
    torch.manual_seed(seed)
    session = Session(path, system, sampling, dtype or inference_dtype())
    terminal = sys.stdin.isatty()
    if terminal:
        import readline  # noqa: F401  lines can be edited and recalled

        _tell(f"{path}. /help shows the commands.")
    while (line := _read(terminal)) is not None:
        if line.strip() and not session.handle(line.rstrip("\r\n")):
            return


def _read(terminal: bool) -> str | None:
    """A line of input, none at its end."""
    try:
        return input("> ") if terminal else (sys.stdin.readline() or None)
    except (EOFError, KeyboardInterrupt):
        _tell("")
        return None


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _show(piece: str) -> None:
    print(piece, end="", flush=True)


class Session:
    """A conversation, the model that answers, and where there are two, the one without adapter."""

    def __init__(self, path: str, system: str | None, sampling: Sampling, dtype: str) -> None:
        self.path, self.system, self.sampling, self.dtype = path, system, sampling, dtype
        self.turns: list[dict[str, str]] = []
        directory = str(resolve_model(path))
        self.trained = ChatModel(Model(path=directory, dtype=dtype), directory)
        self.untrained: ChatModel | None = None
        self.model = self.trained

    @property
    def messages(self) -> list[dict[str, str]]:
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*before, *self.turns]

    def handle(self, line: str) -> bool:
        """A turn or a command; false ends the session."""
        if not line.startswith("/"):
            self.say(line)
            return True
        name, _, rest = line.strip().partition(" ")
        if name == "/exit":
            return False
        commands: dict[str, Callable[[str], str]] = {
            "/clear": self._clear,
            "/system": self._system,
            "/save": self._save,
            "/adapter": self._adapter,
            "/help": lambda _: HELP,
        }
        command = commands.get(name)
        _tell(command(rest.strip()) if command else f"{name}: no such command\n{HELP}")
        return True

    def say(self, text: str) -> None:
        """One turn of the user's, and the answer; where there is none, the turn is forgotten."""
        question = {"role": "user", "content": text}
        try:
            prompt = render(self.model.tokenizer, [*self.messages, question])
        except BadRow as bad:
            _tell(str(bad))
            return
        if len(prompt) >= self.model.context:
            _tell(
                f"the conversation has {len(prompt)} tokens, the model takes {self.model.context}: "
                "/clear begins anew"
            )
            return
        answer = self.model.answer(prompt, self.sampling, _show)
        _show("\n")
        if answer.finish_reason != "stop":
            why = "interrupted" if answer.finish_reason == "abort" else "cut at its token limit"
            _tell(f"[{why}]")
        self.turns += [question, {"role": "assistant", "content": answer.text}]

    def _clear(self, _: str) -> str:
        self.turns.clear()
        return "cleared"

    def _system(self, text: str) -> str:
        self.system = text or None
        return f"system prompt: {self.system or 'none'}"

    def _save(self, file: str) -> str:
        path = Path(file)
        if path.suffix != ".jsonl":
            return "/save FILE.jsonl: name a .jsonl file"
        if path.exists():
            return f"{path} exists: name a new file"
        if not self.turns:
            return "nothing was said yet"
        try:
            row = json.dumps({"messages": self.messages}, ensure_ascii=False)
            write_atomically(path, row + "\n")
        except OSError as error:
            return f"{path}: cannot be written: {error.strerror}"
        return f"saved {len(self.messages)} messages to {path}"

    def _adapter(self, state: str) -> str:
        if state not in ("on", "off"):
            return "/adapter on or /adapter off"
        if state == "on":
            self.model = self.trained
        elif self.untrained is None:
            try:
                start = starting_model(self.path)
            except ModelError as error:
                return str(error)
            start = start.model_copy(update={"dtype": self.dtype})
            self.untrained = self.model = ChatModel(start, str(resolve_model(self.path)))
        else:
            self.model = self.untrained
        return f"adapter {state}"
