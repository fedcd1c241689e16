"""Entries that plan would refuse are disabled or comments, and the finding says why."""

from gpurack.commands.import_ import refusals
from gpurack.importing.accepted import accepted
from gpurack.importing.fit import placed
from gpurack.importing.reader import Imported, read
from gpurack.importing.text import comments

VLLM = "vllm/vllm-openai:v0.19.0"


def kept(imported: Imported) -> Imported:
    return accepted(imported, lambda data: refusals(data, "gpu1"))


def chat(name: str, gpus: str, number: int, weights: str = "") -> str:
    """A `docker run` of vLLM."""
    publish = f"-p 127.0.0.1:800{number}:8000"
    return f"docker run -d --name {name} --gpus {gpus} {publish} {VLLM} --model {weights or f'org/{name}'}\n"


def off(imported: Imported) -> list[str]:
    return [name for name, fields in imported.models.items() if not fields.get("enabled", True)]


def test_gpu_that_is_not_known_is_a_comment() -> None:
    text = chat("one", "all -e CUDA_VISIBLE_DEVICES=GPU-xxxxxxxx-xxxx", 1)
    result = kept(read(text))
    assert result.refused["models"]["one"]["gpus"] == ["GPU-xxxxxxxx-xxxx"]
    assert "(one): is a comment, because plan refuses it: gpus.0: " in comments(result)


def test_replicas_keep_the_name_of_their_model_as_a_second_one() -> None:
    result = kept(read("".join(chat(f"chat{n}", f"device={n}", n, "org/a") for n in range(4))))
    assert off(result) == []
    assert [fields.get("served_name") for fields in result.models.values()] == ["org/a", None, None, None]
    assert [one.where for one in result.findings if one.what.startswith("served_name is")] == ["line 1 (chat0)"]
    assert sum('"org/a" is a second name of it' in one.what for one in result.findings) == 3


def test_last_entry_of_the_source_yields_its_gpu() -> None:
    result = kept(read(chat("zz", "device=0", 1) + chat("mm", "'\"device=0,1\"' ", 2) + chat("aa", "device=1", 3)))
    assert off(result) == ["mm"]
    assert "line 2 (mm): is disabled: it has a GPU of zz." in comments(result)


def test_instance_of_mig_is_of_the_first_entry() -> None:
    result = kept(read(chat("zz", "device=MIG-1a2b", 1) + chat("aa", "device=MIG-1a2b", 2)))
    assert (off(result), result.refused) == (["aa"], {})


def test_model_without_room_is_disabled_and_not_told_to_use_fit() -> None:
    text = chat("aa", "device=0", 1, "org/a-70b") + chat("bb", "device=0", 2, "org/b-70b")
    result = kept(placed(read(text), {"A30": 1}))
    assert len(off(result)) == 1
    assert "--fit A30=4" not in comments(result)


def test_service_of_an_entry_that_is_a_comment_names_it() -> None:
    text = chat("llm", "all -e CUDA_VISIBLE_DEVICES=GPU-xxxxxxxx-xxxx", 1) + chat("llm2", "device=0", 2)
    ui = "docker run -d --name ui -p 127.0.0.1:3000:8080 -e OPENAI_API_BASE_URL=http://llm:8000/v1 "
    result = kept(read(f"{text}{ui}ghcr.io/open-webui/open-webui:v0.12.4\n"))
    assert "(ui): is a comment, because plan refuses it: connects_to: llm is a comment." in comments(result)
