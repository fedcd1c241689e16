"""Current versions at registries and hubs, for `gpurack lock --upgrade`.

An image is pulled by its name, beside the running one; a hub is asked for its commit. Runs with the parts of the
models' runner, on the host's own python3 (3.6 or newer, standard library only), as root.
"""

import re

from dockerd import Dockerd
from fetch import hub_of, listing_of
from image_ref import same_repository, split_digest
from images import pull_alone
from json_data import parsed
from messages import Failure, code_of, describe_error, say, say_error


def digest(one, logins):
    """The current digest of an image at its registry, `sha256:…`. Raises Failure."""
    dockerd = Dockerd(one["user"])
    pull_alone(dockerd, one["name"], one["image"], logins)
    said = parsed(dockerd.must("image", "inspect", "--format", "{{json .RepoDigests}}", one["image"]))
    known = [name for name in said if isinstance(name, str)] if isinstance(said, list) else []
    own = [name for name in known if same_repository(name, one["image"])]
    if not known:
        raise Failure("image {} has no digest of a registry".format(one["image"]), "image-without-digest")
    found = split_digest((own or known)[0])[1]
    if not re.match(r"sha256:[0-9a-f]{64}\Z", found):  # a user's Docker may say anything
        raise Failure("image {} has no valid digest".format(one["image"]), "image-without-digest")
    return found


def commit(one, token):
    """`COMMIT for PATH`: the current commit of a hub's branch; None where the hub does not say."""
    hub = hub_of(one["fetch"], token)
    listing_of(hub)
    return hub.commit and "{} for {}".format(hub.commit, one["place"])


def main(job):
    """Print `NAME: now …` or `error NAME: …` for each image and hub of the job."""
    for ask, given, asked in ((digest, job["logins"], job["images"]), (commit, job["hf_token"], job["hubs"])):
        for one in asked:
            try:
                found = ask(one, given)
                if found:
                    say(one["name"], "now {}".format(found))
            except Exception as error:  # a user's daemon may answer anything; that fails this entry alone
                say_error(one["name"], describe_error(error), code_of(error))
