"""What helps against what an engine said last before it ended. A part of models.py, on the host's own python3 (3.6 or
newer, standard library only)."""

import re

ON_CPU = "The host has too little memory for it: a smaller context, or a smaller model."
MEMORY = "give it more cards or another one, a smaller context, or its neighbours less vram"
KNOWN = (
    (
        r"out of memory|OutOfMemory|No available memory for the cache blocks|Not enough memory|cudaMalloc failed"
        r"|failed to allocate|bad_alloc|MemoryError|Cannot allocate memory"
        r"|is less than desired GPU memory utilization|To serve at least one request",
        "It does not fit its cards: " + MEMORY + ".",
    ),
    (r"/dev/shm", 'It needs more shared memory: a larger one in compose: {"shm_size": "64gb"}, or {"ipc": "host"}.'),
    (
        r"no new privileges|effective uid is not 0",
        "Its image uses sudo or another program with setuid: take one that does not, or write "
        'compose: {"security_opt": ["no-new-privileges:false"]}.',
    ),
    (r"requires more system memory", "The host has too little memory for it: choose a smaller one."),
    (
        r"larger than the number of available GPUs|needs as many GPUs",
        "Its parallelism needs more cards: correct gpus, or what args say of it.",
    ),
    (
        r"must be divisible by tensor parallel size|is not divisible by",
        "Its attention heads cannot be shared by so many cards: another number of gpus, or pipeline parallel in args.",
    ),
    (
        r"Runtime compute cap|needs compute capability|no kernel image is available",
        "Its image is not for this kind of card: let version choose the image, or take another card.",
    ),
    (r"greater than the derived max_model_len", "Its weights allow a shorter context only: lower context."),
    (
        r"unrecognized arguments|error: argument |invalid argument:|unexpected argument|invalid choice"
        r"|No such option|invalid value ('.*' )?for '-",
        "It does not know one of its arguments, or its value: correct args.",
    ),
    (
        r"Invalid repository ID or local directory|config\.json.{0,3} not found|is not a local folder"
        r"|failed to load model|Model path does not exist|Cannot find any model weights|HeaderTooLarge|invalid magic",
        "It cannot read its weights: see whether weights names the right file or folder, whole and in its format.",
    ),
    (
        r"Could not parse SQLAlchemy URL|DATABASE_URL uses unsupported scheme|unable to open database file"
        r"|Redis URL must specify|Unsupported vector type",
        "It cannot use a database that env names: correct DATABASE_URL, REDIS_URL or VECTOR_DB, or remove it; none is "
        "needed.",
    ),
    (
        r"some hosts are still not reachable|getaddrinfo (ENOTFOUND|EAI_AGAIN)|connect ECONNREFUSED",
        "The model that it connects to does not answer: see why, and whether env names another address.",
    ),
)
"""What engines say (vLLM, SGLang, TEI, llama.cpp, ollama, LiteLLM, Open WebUI, llama-gpt) → what to do."""
KILLED = "It was killed, as the kernel does when memory runs out: see dmesg, and " + MEMORY + "."


def remedy(code, said, cards=True):
    """A sentence, with a space before it; "" where nothing is known. code: the container's exit code. said: its last
    lines; the last of them that is known counts. cards: has it any? Else the memory that it lacks is the host's."""
    found = ""
    for line in said.splitlines():
        for words, sentence in KNOWN:
            if re.search(words, line, re.IGNORECASE):
                found = sentence
    if found == KNOWN[0][1] and not cards:
        found = ON_CPU
    found = found or (KILLED if code == 137 else "")
    return found and " " + found
