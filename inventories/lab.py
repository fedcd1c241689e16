"""A lab with two servers of four A30 and one of two RTX 4090: what its people started by hand, as one inventory.

Made by `gpurack import` from the commands in docs/from-docker-run.md, and then resolved, because as it was it could not
all run at once: port 8003 was given three times, GPU 0 six times; the 14B was on 0,1 in one command and on 1,2 in the
other; the 32B wants all four cards. See it with

    gpurack plan inventories/lab.py

which opens no connection. To have a lab like it: your names, your paths, and keys (at the end of _COMMON).
"""

_COMMON = {
    "docker": {"version": "28.5.2", "daemon": {"live-restore": True, "log-driver": "local"}},
    "nvidia": {"toolkit": "1.20.1"},
    "weights_dir": "/data/models",  # what is fetched; one copy for all models of a host
    "engines": {  # any field of a model, for every model of that engine
        "vllm": {"version": "0.33.0"},
        "tei": {"version": "1.9"},
        "ollama": {"version": "0.33.0"},
        "llama.cpp": {"version": "b7000"},
        "llama-cpp-python": {"version": "0.3.36"},
        "litellm": {"version": "1.109.1"},
        "open-webui": {"version": "0.12.4"},
    },
    # Open to the whole network, as it was by hand; the plan warns of it. With `export LAB_KEY=…`, better:
    #   "defaults": {"bind": "lan", "api_key": {"env": "LAB_KEY"}},
    # and the gateway with a key for each person or group: "keys": {"alice": {"env": "ALICE_KEY"}, "chat": …}.
    # Of vLLM a key guards /v1 alone, so best of all "vllm": {"bind": "loopback", …} above, and a gateway on each host
    # for people (docs/engines.md).
    "defaults": {"bind": "lan"},
}
_W = "/home/ics/workspace/llm-models"
_SAIGA = "/data/models/saiga_mistral_7b-q4_K.gguf"

_GPU1 = {
    "models": {
        "qwen2.5-7b-instruct": {
            "engine": "vllm", "weights": f"{_W}/qwen/Qwen2___5-7B-Instruct", "gpus": [0], "port": 8000,
            "context": 32768,
        },
        "qwen2.5-14b-instruct": {
            "engine": "vllm", "weights": f"{_W}/qwen/Qwen2___5-14B-Instruct", "gpus": [2, 3], "port": 8001,
            "context": 32768,
        },
        # four small models on one card, each with its share
        "bge-large-zh-v1.5": {
            "engine": "vllm", "weights": f"{_W}/AI-ModelScope/bge-large-zh-v1___5", "gpus": [1], "vram": "5GiB",
            "port": 8002, "context": 512,
        },
        "bge-m3": {
            "engine": "vllm", "weights": f"{_W}/Xorbits/bge-m3", "gpus": [1], "vram": "6GiB", "port": 8003,
            "context": 8192,
        },
        "bge-reranker-large": {
            "engine": "vllm", "weights": f"{_W}/Xorbits/bge-reranker-large", "gpus": [1], "vram": "5GiB", "port": 8004,
            "context": 512,
        },
        "opt-125m": {
            "engine": "vllm", "weights": {"hf": "facebook/opt-125m", "revision": "27dcfa7"}, "gpus": [1],
            "vram": "3GiB", "port": 8005, "context": 2048, "served_name": "facebook/opt-125m",
        },
    },
    "services": {  # what people use
        "gateway": {"engine": "litellm", "connects_to": "all", "port": 4000},
        # whoever opens the page first becomes its administrator: for the whole network with
        #   "bind": "lan", "keys": {"admin@lab.example": {"env": "CHAT_ADMIN"}}   after `export CHAT_ADMIN=…`
        "chat": {"engine": "open-webui", "connects_to": ["gateway"], "port": 3000, "bind": "loopback"},
    },
}  # fmt: skip

_GPU2 = {
    "models": {
        "qwen2.5-32b-instruct": {
            "engine": "vllm", "weights": f"{_W}/qwen/Qwen2___5-32B-Instruct", "gpus": "all", "port": 8000,
            "context": 32768, "args": {"enable-prefix-caching": True},
        },
    },
}  # fmt: skip

_STUD1 = {
    "reserved_gpus": [1],  # the students' own
    "models": {
        "ollama": {
            "engine": "ollama", "pull": ["qwen2.5:7b", "llama2:13b"], "gpus": [0], "vram": "18GiB", "port": 11434,
            "context": 2048, "api_key": None,  # ollama knows no keys
            "env": {"OLLAMA_KEEP_ALIVE": "-1", "OLLAMA_NUM_PARALLEL": "4", "OLLAMA_FLASH_ATTENTION": "1"},
        },
        "reranker-tei": {
            "engine": "tei", "weights": {"hf": "BAAI/bge-reranker-large"}, "gpus": [0], "vram": "3GiB", "port": 8080,
        },
        "saiga-7b": {"engine": "llama.cpp", "weights": _SAIGA, "gpus": [], "port": 8081, "context": 4096},
        "saiga-py": {
            "engine": "llama-cpp-python", "gpus": [], "port": 8082,
            "config": {
                "models": [{"model": _SAIGA, "model_alias": "saiga-chat", "chat_format": "llama-2", "n_ctx": 4096}],
            },
        },
    },
    # llama-gpt is of 2023; kept for whoever asks for it, not running
    "services": {"llama-gpt": {"engine": "llama-gpt", "connects_to": ["saiga-py"], "port": 3000, "enabled": False}},
}  # fmt: skip

a30 = ([("gpu1.lab", _GPU1), ("gpu2.lab", _GPU2)], {**_COMMON, "hardware": {"A30": 4}})
students = ([("stud1.lab", _STUD1)], {**_COMMON, "hardware": {"RTX 4090": 2}})
