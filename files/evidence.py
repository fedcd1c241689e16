"""Gathers what gpurack.verify judges: one look at this host, read only, printed as JSON.

Comes by standard input of the host's python3 (3.6 or newer, standard library only), as root, with its parts
(evidence_*.py) and QUESTIONS put in front, see gpurack/verify/evidence.py. It shares nothing with the snapshot that
deploys use: Docker is asked over its socket and not by its program, listeners, GPUs and answers are read here once
more.

Every part of it runs in a process of its own (`Part`) with a time limit; what belongs to a user is read in one of that
user. One that fails, hangs or says too much takes no other with it.
"""

import json
import signal
import sys

from evidence_answers import cards_inside, conversation, cuda_inside, cuda_log
from evidence_docker import DAEMON_TIMEOUT, docker, of_form, ours, recorded
from evidence_gpus import amd, cards, processes
from evidence_parts import ASKED, Part, results, unread
from evidence_secrets import arguments, owner_of, processes_by_owner, secrets
from evidence_system import account, exists, files, listeners, packages, system, units
from evidence_weights import hashed_before, same_inside, weights, weights_as_keeper

LIMIT, TALK_LIMIT, DEEP_LIMIT = 90, 300, 86400  # seconds of a part, of a talk with a model, of hashing weights


def main():
    """Three rounds of parts: the host and its daemons, then what needs to know the containers, then who computes."""
    ASKED.update(QUESTIONS)  # noqa: F821 - put in front by gpurack
    signal.alarm(ASKED["limit"])
    models, deep = ASKED["models"], ASKED["deep"]
    parts = (system, packages, files, units, listeners, cards, amd)
    begun = {part.__name__: Part(part.__name__, LIMIT, part) for part in parts}
    begun["docker", ""] = Part("docker", LIMIT, docker, "")
    there = [user for user in ASKED["users"] if user and exists(user)]
    for user in there:
        begun["docker", user] = Part("docker " + user, LIMIT, docker, user, user=user)
        begun["account", user] = Part("account " + user, LIMIT, account, user, user=user)
    found = results(begun)
    daemons = {user: of_form(found.pop(("docker", user))) for user in ["", *there]}
    found["users"] = {user: found.pop(("account", user)) if user in there else None for user in ASKED["users"] if user}

    record, remembered = recorded(), hashed_before()
    begun = {"secrets": Part("secrets", LIMIT, secrets, daemons)}
    for uid, pids in processes_by_owner().items():
        begun["arguments", uid] = Part("arguments {}".format(uid), LIMIT, arguments, pids, user=uid)
    for name, one in models.items():
        user, container = one["user"], ours(name, one, daemons, record)
        for path in one["weights"]:
            limit = DEEP_LIMIT if deep else LIMIT
            begun["weights", name, path] = Part(
                "weights " + name, limit, weights if user else weights_as_keeper, path, deep, remembered, user=user
            )
        if container:
            begun["mounted", name] = Part("mounts " + name, LIMIT, same_inside, container, user=user)
            talk = (conversation, one, container["Id"], found["system"])
            begun["answers", name] = Part("answers " + name, TALK_LIMIT, *talk, user=user)
            if one["cards"]:
                words = (cards_inside, user, container["Id"])
                begun["cards", name] = Part("cards in " + name, TALK_LIMIT, *words, user=user)
            if one["cuda"]:
                words = (cuda_inside, user, container["Id"], one["cuda"][0] or container["Path"], one["cuda"][1])
                begun["cuda", name] = Part("CUDA in " + name, TALK_LIMIT, *words, user=user)
            if one["cuda log"]:
                begun["cuda log", name] = Part("log of " + name, TALK_LIMIT, cuda_log, user, container, user=user)
    said = results(begun)
    said.update({key: seen_inside(begun[key], said[key], INSIDE[key[0]]) for key in begun if key[0] in INSIDE})

    found["secrets"] = with_arguments(said)
    found["models"] = {name: of_model(name, one, said) for name, one in models.items()}
    found["daemons"] = daemons
    # after the requests: some engines load a model only then
    found.update(results({"processes": Part("processes", LIMIT, processes)}))
    json.dump(found, sys.stdout)


INSIDE = {"cards": "nvidia-smi", "cuda": "CUDA"}
"""Parts that run a program in a container → the program, for messages."""


def seen_inside(part, said, program):
    """What a part of INSIDE found. A program that hangs in the container is written down as the part's."""
    if unread(said):
        return said
    left = [pid for pid in said["left"] if isinstance(pid, int)]
    if not left:
        return said["found"]
    part.late = "{} in the container did not end in {} s".format(program, DAEMON_TIMEOUT)
    part.leave(left)
    return part.result()


def with_arguments(said):
    """The secrets' part with what is known of processes' arguments; `unread`: why not, by user."""
    found = dict(said["secrets"], unread={})
    for key, told in said.items():
        if key[0] == "arguments":
            if unread(told):
                found["unread"][owner_of(key[1])] = told.get("late") or told["broken"]
            elif not unread(found):
                found["leaks"] = found["leaks"] + told
    return found


def of_model(name, one, said):
    """All that concerns one entry of the inventory and is not said by its daemon already.

    A model that cannot be asked is not ready.
    """
    answered = said.get(("answers", name), {})
    if unread(answered):
        answered = {"ready": [0, answered.get("late") or answered["broken"]]}
    found = {"weights": {path: said["weights", name, path] for path in one["weights"]}}
    found.update(answered, mounted=said.get(("mounted", name), {}))
    if ("cards", name) in said:
        found["cards inside"] = said["cards", name]
    for part in ("cuda", "cuda log"):
        if (part, name) in said:
            found[part] = said[part, name]
    return found


if __name__ == "__main__":
    main()
