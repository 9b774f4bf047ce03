"""Changes under a steady load: no answer fails, and each is of one version.

Last of the package by its name: it changes what the shared server serves.
"""

import fcntl
import signal
import time

import openai
import pytest
from runs import SECONDS, called, processes_of
from serving_load import Load

from medgpt_ray.retrieval.build import build
from medgpt_ray.retrieval.embedding import EMBEDDED, Embedder
from medgpt_ray.serving import versions

pytestmark = pytest.mark.usefixtures("warm")


def test_an_adapter_is_swapped_in_place(server, models):
    base, old, new = (versions.of_directory(d) for d in (models.base, *models.adapters))
    with Load(server.client("key-of-load"), "cardio").running() as load:
        time.sleep(1)
        done = server.update("--adapter", f"cardio={models.adapters[1]}")
        time.sleep(1)
    assert done.returncode == 0, done.stderr
    assert load.failures == []
    assert set(load.texts) == {f"{base}+{old}", f"{base}+{new}"}
    assert all(len(texts) == 1 for texts in load.texts.values()), load.texts
    assert load.texts[f"{base}+{old}"] != load.texts[f"{base}+{new}"]


def test_an_adapter_is_taken_away(server, models):
    client = server.client("key-of-load")
    replicas = called("OpenAIServer", processes_of(server.pid))
    assert server.update("--adapter", f"passing={models.adapters[0]}").returncode == 0
    assert "passing" in [model.id for model in client.models.list()]
    done = server.update("--drop", "passing")
    assert done.returncode == 0, done.stderr
    assert "passing" not in [model.id for model in client.models.list()]
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="passing", prompt="hello")
    assert called("OpenAIServer", processes_of(server.pid)) == replicas
    done = server.update("--drop", "passing")
    assert done.returncode == 2
    assert "--drop passing: adapters to drop are those served: cardio" in done.stderr


def test_a_broken_update_is_named_and_changes_nothing(server, tmp_path):
    done = server.update(str(tmp_path))
    assert done.returncode == 2
    assert "config.json" in done.stderr
    done = server.update("--adapter", "nowhere")
    assert done.returncode == 2


def test_what_changed_since_it_was_deployed_has_to_be_named(server, models):
    config = models.base / "generation_config.json"
    text = config.read_text()
    config.write_text(text + " ")
    done = server.update("--adapter", f"cardio={models.adapters[0]}")
    config.write_text(text)
    assert done.returncode == 2
    assert f"RUN|MODEL: {models.base} has changed since it was deployed as" in done.stderr


def test_one_update_at_a_time(server, models):
    lock = server.cache / "serve" / f"{server.port}.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = server.update(str(models.other))
    assert done.returncode == 2
    assert "another update is at work" in done.stderr


def test_an_interrupted_update_changes_nothing(server, models):
    """The record and the server stay those of before: a later update starts from there."""
    record = server.cache / "serve" / f"{server.port}.json"
    before = record.read_text()
    with server.updating(str(models.other)) as update:
        deadline = time.monotonic() + SECONDS
        while not called("ray::ServeReplica", processes_of(server.pid))[1:]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        update.send_signal(signal.SIGINT)
        assert update.wait(timeout=120) == 130
    assert record.read_text() == before
    answer = server.client().chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hi"}], max_tokens=2
    )
    assert answer.system_fingerprint == versions.of_directory(models.base)
    assert len(called("ray::ServeReplica", processes_of(server.pid))) == 1


def test_weights_are_swapped_by_new_replicas(server, models):
    old, new = versions.of_directory(models.base), versions.of_directory(models.other)
    with Load(server.client("key-of-load"), "tiny").running() as load:
        time.sleep(1)
        done = server.update(str(models.other))
        after = server.client().chat.completions.with_raw_response.create(
            model="tiny", messages=[{"role": "user", "content": "Hi"}], max_tokens=2
        )
        time.sleep(1)
    assert done.returncode == 0, done.stderr
    assert after.headers["x-medgpt-version"] == new
    assert after.parse().system_fingerprint == new
    assert load.failures == []
    assert load.answers > 10
    assert set(load.texts) == {old, new}
    assert all(len(texts) == 1 for texts in load.texts.values()), load.texts
    assert load.texts[old] != load.texts[new]


def test_a_killed_engine_fails_only_what_it_had_in_work(server):
    """Later requests wait for the new replica; those in work get a server error, none hangs."""
    (engine,) = called("VLLM::EngineC", processes_of(server.pid))
    with Load(server.client("key-of-load"), "tiny").running() as load:
        time.sleep(2)
        engine.kill()
        before, deadline = load.answers, time.monotonic() + SECONDS
        while load.answers < before + 20 and time.monotonic() < deadline:
            time.sleep(0.2)
    assert load.answers >= before + 20
    assert all("Error code: 5" in failure for failure in load.failures), load.failures
    assert all(" - " in failure for failure in load.failures), load.failures  # OpenAI's message
    assert len(load.failures) < 30  # within the second that the replica takes to leave
    assert len(load.texts) == 1


SECTIONS = {
    "Start": "Warfarin is started with 5 mg once a day, in the evening, for two days.",
    "Measuring": "Once warfarin is started the INR is measured after three days, and then weekly.",
    "Bleeding": "Where warfarin is started and blood is seen in the urine, it is stopped at once.",
    "Food": "Patients who have started warfarin eat as much of green vegetables as before.",
    "Other drugs": "Before warfarin is started the list of all other drugs is looked through.",
}


def test_an_index_takes_part_and_leaves_room_for_the_answer(server, tmp_path):
    """The last of all: the server keeps it."""
    notes, index = tmp_path / "notes", tmp_path / "notes.index"
    notes.mkdir()
    for title, text in SECTIONS.items():
        (notes / f"{title}.md").write_text(f"# {title}\n\n{text * 4}\n")
    build(notes, index, Embedder(EMBEDDED))
    done = server.update("--index", str(index))
    assert done.returncode == 0, done.stderr
    asked = [{"role": "user", "content": "How is warfarin started?"}]

    def sources(**fields):
        answer = server.client().chat.completions.create(model="tiny", messages=asked, **fields)
        found = answer.model_extra["medgpt"]["retrieval"]
        assert found["index"] == versions.of_index(index)
        return [source["number"] for source in found["sources"]]

    few, fewer = sources(max_tokens=4), sources(max_tokens=500)
    assert 5 > len(few) > len(fewer) >= 1  # of a context of 1,024 tokens
    (notes / "Start.md").unlink()
    build(notes, index, Embedder(EMBEDDED))
    done = server.update()
    assert done.returncode == 2
    assert f"--index: {index} has changed since it was deployed as" in done.stderr
