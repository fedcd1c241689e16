"""Shell text, parsed as a shell does, and as its author meant it."""

import time

import pytest

from gpurack.importing import docker_run, words

RUN = "docker run -p 80:80 a/b:1"


def commands(text: str, **variables: str) -> list[tuple[str, ...]]:
    return [command.words for command in words.read(text, variables, docker_run.unfinished).commands]


def findings(text: str) -> list[str]:
    return [str(finding) for finding in words.read(text, {}, docker_run.unfinished).findings]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("docker run \\\n  -p 80:80 \\\n  a/b:1\n", [tuple(RUN.split())]),
        ("a; b && c || d | e & f", [("a",), ("b",), ("c",), ("d",), ("e",), ("f",)]),
        ("echo 'a;b' \"c && d\" e\\;f", [("echo", "a;b", "c && d", "e;f")]),
        ("echo a # docker run x\n# b\necho '# c' d#e", [("echo", "a"), ("echo", "# c", "d#e")]),
        ("docker run x > log 2>&1 &\ndocker run y >>log 2>/dev/null", [("docker", "run", "x"), ("docker", "run", "y")]),
        ("echo '<s>' \"a > b\"", [("echo", "<s>", "a > b")]),
        ("m=x; v=$m/y\necho $v \"${m}z\" '$m' \\$m", [("echo", "x/y", "xz", "$m", "$m")]),
        ("export A=1 B='2 3'\necho $A \"$B\" $B", [("echo", "1", "2 3", "2", "3")]),
        ("echo ${A:-b} ${A-}c ${A:-$x}", [("echo", "b", "c", "$x")]),
        ("cat > f <<EOF\ndocker run x\nEOF\necho a", [("cat",), ("echo", "a")]),
        ("$ docker ps\n$ docker run x", [("docker", "ps"), ("docker", "run", "x")]),
        ("echo \"a\nb\"", [("echo", "a\nb")]),
        ("for i in 1 2; do\n echo a\ndone\necho b", [("echo", "a"), ("echo", "a"), ("echo", "b")]),
        ("for i in 1 'x y'; do echo \"$i\"; for j in a b; do echo $i$j; done; done",
         [("echo", "1"), ("echo", "1a"), ("echo", "1b"), ("echo", "x y"), ("echo", "x", "ya"), ("echo", "x", "yb")]),
        ("A=(1 'b c')\nA+=(\n  d # last\n)\necho \"${A[@]}\" x", [("echo", "1", "b c", "d", "x")]),
        ("run() {\n  echo $1 \"${2:-z}\"\n}\nrun a; run 'b c' d", [("echo", "a", "z"), ("echo", "b", "c", "d")]),
        ("function f() { g \"$@\"; }\nf a 'b c'", [("g", "a", "b c")]),
        ("A='-p 1'\nA+=' -q'\necho $A ${B:-${A:-x}} ${A:+y}", [("echo", "-p", "1", "-q", "-p", "1", "-q", "y")]),
        ("echo ${1:-a} \"${2:-b c}\" $3", [("echo", "a", "b c", "$3")]),
        ("docker run `\n  -p 80:80 `\n  a/b:1", [tuple(RUN.split())]),
        ("docker run ^\n  -p 80:80 ^\n  a/b:1", [tuple(RUN.split())]),
        ("if [ -f x ]; then docker run; elif b; then c; else d; fi", [("docker", "run"), ("b",), ("c",), ("d",)]),
        ("case $1 in a|b) docker run a;; *) echo \"it's\";; esac", [("docker", "run", "a"), ("echo", "it's")]),
        ("for ((i=0; i<2; i++)); do echo $i; done", [("echo", "0"), ("echo", "1")]),
        ("cat <<-'A' > f; echo b\n\tdocker run x\n\tA\necho c", [("cat",), ("echo", "b"), ("echo", "c")]),
        ("echo \"\\$a\" \"${x:-b 'c'}\" ${y:-'d e'} $'f\\ng' \"$@\" '' \"\"", [
            ("echo", "$a", "b 'c'", "d e", "f\ng", "$@", "", "")]),
        ("cat <<A > f\n docker run x\n  A\necho c", [("cat",), ("echo", "c")]),
        ("A=('b c' d)\necho $A \"${A[*]}\" ${#A}", [("echo", "b", "c", "b c", "d", "${#A}")]),
        ("echo > log a 2>&1 b &> log c", [("echo", "a", "b", "c")]),
        ("docker run -v ${env:HOME}/m:/m x", [("docker", "run", "-v", "$HOME/m:/m", "x")]),
        ("(cd x && docker run a) || { echo b; }", [("cd", "x"), ("docker", "run", "a"), ("echo", "b")]),
        ("echo $$ $? a\\ b", [("echo", "$$", "$?", "a b")]),
        ("while true; do\n echo a\ndone", [("true",), ("echo", "a")]),
        ("", []),
    ],
)  # fmt: skip
def test_parses_words_like_a_shell(text: str, expected: list[tuple[str, ...]]) -> None:
    assert commands(text) == expected
    assert not [finding for finding in findings(text) if "backslash" in finding]


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("docker run \\ \n -p 80:80 \\\n a/b:1", 1, words.SPACE),
        ("docker run\n -p 80:80 \\\n a/b:1", 1, words.MISSING),
        ("docker run -p 80:80\na/b:1", 1, words.MISSING),
        ("docker run \\\n -p 80:80\n a/b:1", 2, words.MISSING),
        ("docker run \\\n# the port\n -p 80:80 a/b:1", 2, words.MISSING),
    ],
)
def test_repairs_and_reports_broken_continuations(text: str, line: int, sentence: str) -> None:
    assert commands(text) == [tuple(RUN.split())]
    assert findings(text) == [f"line {line}: {sentence}"]


@pytest.mark.parametrize(
    ("text", "expected", "said"),
    [
        ("P=(8 9); for ((i=0; i<${#P[@]}; i++)); do a ${P[$i]}; done", [("a", "8"), ("a", "9")], []),
        ("if b; then for ((i = 0; i < 2; ++i)); do a $i; done; fi", [("b",), ("a", "0"), ("a", "1")], []),
        ("N=$(nproc); for ((i=3; i<N; i++)); do a $i; done", [("a", "3")], ["repeats while `i<N`; read once."]),
        ("for ((i=0; i<4; i+=2)); do a $i; done", [("a", "0")], ["repeats while `i<4`; read once."]),
        ("P=($(ls)); for ((i=0; i<${#P[@]}; i++)); do a $i; done", [("a", "0")],
         ["repeats while `i<${#P[@]}`; read once."]),
        ("for ((;;)); do a; done", [("a",)], ["repeats for ever; read once."]),
        ("for i in {01..02} gpu{1..0} {0..4..2}; do a $i; done",
         [("a", i) for i in ("01", "02", "gpu1", "gpu0", "0", "2", "4")], []),
        ("for i in {a..c}; do a $i; done", [("a", "$i")], ["repeats for {a..c}; read once."]),
        ("for i in ${m,,}; do a $i; done", [("a", "$i")], ["repeats for ${m,,}; read once."]),
        ("for i in gpu{0,1}; do a $i; done", [("a", "$i")], ["repeats for {0,1}; read once."]),
        ("a '{0..1}' \"{0..1}\"", [("a", "{0..1}", "{0..1}")], []),
    ],
)  # fmt: skip
def test_loop_is_never_lost(text: str, expected: list[tuple[str, ...]], said: list[str]) -> None:
    assert commands(text) == expected
    assert findings(text) == [f"line 1: {what}" for what in said]


@pytest.mark.parametrize("text", ["docker run a/b:1\n\n-x", "ls\n-l", "docker run a/b:1\ncurl x", RUN + "\n" + RUN])
def test_keeps_unrelated_lines_apart(text: str) -> None:
    assert len(commands(text)) == 2
    assert findings(text) == []


def test_uses_given_variables_and_reports_undefined_ones() -> None:
    script = words.read("docker run -v $volume:/data --x $model $(pwd)/y", {"volume": "/v"})
    assert script.commands[0].words == ("docker", "run", "-v", "/v:/data", "--x", "$model", "$PWD/y")
    assert script.commands[0].undefined == ("$model", "$PWD")


def test_output_of_commands_is_unknown() -> None:
    script = words.read('n=$(grep -c ^p /proc/cpuinfo)\nserver --n $n --m "$(hostname -f)"')
    assert script.commands[0].words == ("server", "--n", "$(grep -c ^p /proc/cpuinfo)", "--m", "$(hostname -f)")
    assert script.commands[0].undefined == ("$(grep -c ^p /proc/cpuinfo)", "$(hostname -f)")


@pytest.mark.parametrize("element", ["${M[$i]##*/}", "${M[0],,}", "${M[0]/a/b}", "${M[0]%%,*}", "${#M[0]}"])
def test_operator_on_an_element_of_an_array_is_not_ignored(element: str) -> None:
    script = words.read(f"M=(Org/a)\ni=0\ntool --model {element}")
    [command] = script.commands
    assert (command.words[2], command.undefined) == (element, (element,))


def test_element_of_an_array_is_undefined_if_its_value_is() -> None:
    script = words.read("M=(a $X)\ntool ${M[0]} ${M[0]:-b}\ntool ${M[1]} ${M[2]:-b}")
    assert [(one.words[1:], one.undefined) for one in script.commands] == [(("a", "a"), ()), (("$X", "b"), ("$X",))]
    assert commands("M=('')\ntool ${M[0]:-b} ${M[0]:+c}\nM=(d)\ntool ${M[0]:-b} ${M[0]:+c}") == [
        ("tool", "b"), ("tool", "d", "c"),
    ]  # fmt: skip


def test_ignores_conditional_assignments() -> None:
    script = words.read("n=2\nif [ $x -lt 8 ]; then\n n=1\nfi\nserver $n")
    assert script.commands[-1].words == ("server", "2")
    assert [str(finding) for finding in script.findings] == ["line 3: sets n under a condition; ignored."]


@pytest.mark.parametrize(
    "text",
    [
        'docker run -e A="' + "${A:-" * 2400 + "}" * 2400 + '" x',
        "docker run -e A='" + "some words\n" * 4000 + "' x",
        "docker run " + "-e A=b \\\n" * 4000 + "x",
        "docker run " + "-v /a:/b " * 4000 + "x",
        "docker run " + "<a " * 4000 + "> b " * 4000,
    ],
    ids=["nested", "quoted", "continued", "long", "redirected"],
)
def test_reads_long_commands_in_little_time(text: str) -> None:
    before = time.process_time()
    words.read(text, {}, docker_run.unfinished)
    assert time.process_time() - before < 3  # over 5 s each, up to 80 s, when the time was quadratic


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("Press CTRL+C (or wait) to quit", None),
        ("docker run -d a/b:1 (on the CPU)", "line 2: not valid shell: docker run …"),
        ("docker run -e A='x\ny' a/b:1 (on the CPU)", "line 2: not valid shell: docker run …"),
        ("done", None),
    ],
)
def test_invalid_line_hides_no_other(line: str, finding: str | None) -> None:
    text = f"docker run a\n{line}\nfor i in 1 2; do docker run $i; done\ndocker run b"
    assert [words[2] for words in commands(text) if words[:2] == ("docker", "run")] == ["a", "1", "2", "b"]
    assert findings(text) == ([finding] if finding else [])


def test_many_invalid_lines_take_little_time() -> None:
    before = time.process_time()
    assert len(words.read("echo (\n" * 3000 + "docker run a").commands) == 3001
    assert time.process_time() - before < 3


def test_reports_unclosed_quote() -> None:
    never = "line 1: unclosed quote"
    assert findings("echo 'a") == [f"{never}: echo …"]
    assert findings("sudo docker run -p 80:80 'a") == [f"{never}: sudo docker run …"]
    assert findings("KEY='a") == [f"{never}: KEY …"]
