"""The `gpurack import` command."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpurack.commands.main import main

FINE = (
    "docker run -d --restart unless-stopped -p 127.0.0.1:8000:8000 -v /m:/m --name saiga "
    "ghcr.io/ggml-org/llama.cpp:server-b7000 -m /m/a.gguf --port 8000\n"
)


def run(*arguments: str, given: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(main, ["import", *arguments], input=given)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_complete_import_exits_0_and_is_valid(tmp_path: Path) -> None:
    code, output = run("-", "--name", "lab1", given=FINE)
    assert code == 0
    inventory = tmp_path / "lab.py"
    inventory.write_text(output)
    planned = CliRunner().invoke(main, ["plan", str(inventory)])
    assert planned.exit_code == 0, planned.output
    assert "saiga  llama.cpp b7000  localhost:8000" in planned.output


def test_yaml_import_is_valid(tmp_path: Path) -> None:
    (tmp_path / "start.sh").write_text(FINE)
    code, output = run(str(tmp_path / "start.sh"), "--yaml")
    assert code == 0
    (tmp_path / "lab.yaml").write_text(output)
    assert CliRunner().invoke(main, ["plan", str(tmp_path / "lab.yaml")]).exit_code == 0


def test_open_findings_exit_1_and_show_plan_errors() -> None:
    code, output = run(given=FINE.replace("/m/a.gguf", "$model"))
    assert code == 1
    assert "#   line 1: $model is not defined. Pass --set model=…." in output
    assert '"weights": "/UNKNOWN/$model.gguf",' in output
    assert '"enabled": False' in output
    assert '#   line 1 (saiga): is disabled until UNKNOWN is known: "$model" is not a path on the host.' in output


TOO_MANY = (
    "docker run -d -p 127.0.0.1:8000:8000 --gpus device=0 --name one vllm/vllm-openai:v0.19.0 /m -tp 2 -v /m:/m\n"
)


def test_entry_that_plan_refuses_in_any_case_is_a_comment() -> None:
    code, output = run(given=TOO_MANY)
    assert (code, '            # "one": {\n            #     "engine": "vllm",\n' in output) == (1, True)
    assert "#   line 1 (one): is a comment, because plan refuses it: gpus: " in output
    yaml = run("--yaml", given=TOO_MANY)[1]
    assert "\n    # models:\n    #   one:\n    #     engine: vllm\n" in yaml
    assert list(json.loads(run("--json", given=TOO_MANY)[1])["unfinished"]["models"]) == ["one"]
    assert run("--set", "model=/m/a.gguf", given=FINE.replace("/m/a.gguf", "$model"))[0] == 0


def test_key_that_is_not_exported_yet_leaves_its_entry() -> None:
    output = run(given=FINE.replace("--port 8000", "--port 8000 --api-key $NO_SUCH_KEY"))[1]
    assert '                "api_key": {"env": "NO_SUCH_KEY"},' in output
    assert "# Errors to fix before `gpurack plan` accepts it:" in output
    assert "export NO_SUCH_KEY=" in output


def test_groups_equal_findings() -> None:
    twice = FINE.replace("--restart unless-stopped ", "") + FINE.replace("--restart unless-stopped ", "").replace(
        "saiga", "other"
    ).replace("127.0.0.1:8000:", "127.0.0.1:8001:")
    _, output = run(given=twice)
    assert "#   line 1 (saiga), line 2 (other): had no restart policy" in output


def test_report_says_what_was_imported_and_joins_sentences_that_differ_in_one_word() -> None:
    one = FINE.replace("--restart unless-stopped ", "")
    numbers = range(1, 8)
    text = "".join(one.replace("saiga", f"m{n}").replace("8000:", f"800{n}:").replace("/m", f"/d{n}") for n in numbers)
    _, output = run(given=f"{text}docker ps\ndocker images\n")
    report = output[output.index("# Imported:") :].splitlines()
    assert report[1:3] == [
        "#   line 1: m1 (llama.cpp, port 8001)", "#   line 2: m2 (llama.cpp, port 8002)"
    ]  # fmt: skip
    places = "line 1 (m1), line 2 (m2), line 3 (m3) and 4 more"
    values = ", ".join(f"/d{n}" for n in numbers)
    assert f"#   {places}: weights are mounted read-only below /weights instead of {values}." in report
    assert "#   line 8, line 9: `docker ps`, `docker images`: read-only command." in report


@pytest.mark.parametrize("given", ["", "# nothing\n"])
def test_empty_source_exits_2(given: str) -> None:
    assert run(given=given) == (2, "# No services found.\n")


def test_source_without_docker_command_exits_2() -> None:
    code, output = run(given="echo hello\n")
    assert code == 2
    assert "`echo hello`: not a docker command." in output


def test_unreadable_source_exits_2(tmp_path: Path) -> None:
    hint = "Give an existing file, or - to read from standard input."
    assert run(str(tmp_path / "none.sh")) == (2, f"error  {tmp_path / 'none.sh'}: No such file or directory. {hint}\n")
    assert run("-", given="services: 1\n")[0] == 2
    code, output = run("-", given="services:\n  - [")
    assert (code, output[:23]) == (2, "error  standard input: ")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert run(str(tmp_path / "binary")) == (2, f"error  {tmp_path / 'binary'}: is not UTF-8 text.\n")
    assert run("--set", "model", given=FINE)[0] == 2


def test_unknown_host_is_one_error() -> None:
    code, output = run("--host", "no-such-host.invalid")
    assert code == 2
    assert re.search(r"error  no-such-host.invalid: could not connect: .*\. Try `ssh no-such-host.invalid`\.", output)
    assert "Traceback" not in output


def test_left_out_containers_leave_nothing_open() -> None:
    assert run(given="docker ps\n") == (
        0,
        "# No services found.\n# Left out, not a service:\n#   line 1: `docker ps`: read-only command.\n",
    )


def test_compose_file_has_variables_of_env_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=8123\nTAG='2' # newest\nDB_PASSWORD=hush\n")
    file = tmp_path / "compose.yml"
    file.write_text("services:\n  one:\n    image: lab/x:${TAG}\n    ports: ['${PORT}:80']\n")
    assert '"image": "lab/x:2"' in run(str(file))[1]
    assert '"port": 8123' in run(str(file))[1]
    assert '"port": 9000' in run(str(file), "--set", "PORT=9000")[1]
    file.write_text(file.read_text() + "    environment: {A: 'x${DB_PASSWORD}'}\n    profiles: [gpu]\n")
    code, output = run(str(file), "--profile", "gpu")
    assert (code, '"lab/x:2"' in output, "hush" in output) == (1, True, False)
    assert "it belongs to profile gpu" in run(str(file))[1]
    (tmp_path / ".env").write_text("PORT=8123\nTAG=2\nCOMPOSE_PROFILES=ui,gpu\n")
    assert '"lab/x:2"' in run(str(file))[1]


def test_json_has_entries_findings_and_errors() -> None:
    code, output = run("--json", "--name", "lab1", given=FINE.replace("/m/a.gguf", "$model") + "docker ps\n")
    found = json.loads(output)
    assert code == 1
    assert (found["host"], list(found["data"]["models"]), found["unfinished"]) == ("lab1", ["saiga"], {})
    assert {"kind": "left out", "where": "line 2", "what": "`docker ps`: read-only command."} in found["findings"]
    assert any("is disabled until" in one["what"] for one in found["findings"])
    token = "-p 127.0.0.1:8000:8000 -e HF_TOKEN=$NO_SUCH_TOKEN vllm/vllm-openai:v0.19.0 --model a/b"
    unread = json.loads(run("--json", given=f"docker run -d --name one --gpus device=0 {token}")[1])
    assert [error.split(": ")[0] for error in unread["errors"]] == ["gpu1.lab hf_token"]
    assert run("--json", given="echo hello\n")[0] == 2
    assert run("--json", given=FINE)[0] == 0
