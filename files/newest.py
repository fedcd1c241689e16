"""What registries and hubs have now, for `gpurack lock --upgrade`: an image is pulled by its name, beside the one that
runs; a hub is asked for its commit. Runs with the models' runner's parts, on the host's own python3 (3.6 or newer,
standard library only), as root.
"""

from common import Failure, parsed, say, told
from dockerd import Dockerd
from fetch import hub_of, listing_of
from images import pull_alone, repository_of


def digest(one, logins):
    """By which the registry knows an image now; `sha256:…`."""
    dockerd = Dockerd(one["user"])
    pull_alone(dockerd, one["name"], one["image"], logins)
    said = parsed(dockerd.must("image", "inspect", "--format", "{{json .RepoDigests}}", one["image"]))
    known = [name for name in said if isinstance(name, str)] if isinstance(said, list) else []
    own = [name for name in known if name.partition("@")[0] == repository_of(one["image"])]
    if not known:
        raise Failure("image {} has no digest of a registry".format(one["image"]))
    return (own or known)[0].partition("@")[2]


def commit(one, token):
    """At which a hub's branch is now, and for which weights that is asked; None where the hub does not say."""
    hub = hub_of(one["fetch"], token)
    listing_of(hub)
    return hub.commit and "{} for {}".format(hub.commit, one["place"])


def main(job):
    """Says `NAME: now …` for each thing that was asked, or `error NAME: …`."""
    for ask, given, asked in ((digest, job["logins"], job["images"]), (commit, job["hf_token"], job["hubs"])):
        for one in asked:
            try:
                found = ask(one, given)
                if found:
                    say(one["name"], "now {}".format(found))
            except Exception as error:  # what a user's daemon says may be anything, and is that user's trouble alone
                say("", "error {}: {}".format(one["name"], told(error)))
