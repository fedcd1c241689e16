"""The Compose project of one daemon during a run. A part of models.py.

compose.yaml names what should run: a changed model's new service only once it is ready. Runs on the host's own python3
(3.6 or newer, standard library only).
"""

import contextlib
import glob
import os

import record
from changes import staged  # (beside this file)
from compose_yaml import blocks_of, services_of

REJECTED = "Compose rejects it, so it was not changed. Correct its `compose` field. "


class Project:
    """The project of a daemon.

    data: its part of the payload (gpurack/plan/runner.py); `before` is what compose.yaml has. kept: the names that have
    their old lines until their change is decided, or because it failed."""

    def __init__(self, dockerd, data):
        self.dockerd, self.data, self.kept = dockerd, data, set()

    def text(self, kept=()):
        """The text of compose.yaml; models in `kept` stay as in the current file."""
        return self.assembled(self.chosen(kept))

    def chosen(self, kept):
        """Name → lines of compose.yaml; models in `kept` have those of the current file."""
        new, old = self.data["services"], self.data["before"]
        return dict({name: new[name] for name in new if name not in kept}, **{n: old[n] for n in kept if n in old})

    def assembled(self, chosen):
        """Models' lines as one file; the same text as gpurack/plan/models/compose.py: document."""
        text = self.data["head"]
        for section in ("services", "secrets", "volumes"):
            lines = {}
            for block in chosen.values():
                lines.update(block[section])
            if lines:
                text += '"{}":\n'.format(section) + "".join(lines[key] for key in sorted(lines))
            elif section == "services":
                text += '"services": {}\n'
        return text

    def refusal(self, kept=()):
        """Compose's error about the new project; "" when it accepts it. The text checked is in compose.yaml.next."""
        return self.dockerd.refusal(self.text(kept))

    def refused(self, batch):
        """The models of a batch that Compose rejects on their own → its error."""
        names = [model["name"] for model in batch]
        blocks = {name: self.data["services"][name] for name in names if name in self.data["services"]}
        found = {name: self.dockerd.refusal(self.assembled({name: block})) for name, block in blocks.items()}
        return {name: refusal for name, refusal in found.items() if refusal}

    def begin(self, kept, files_kept):
        """Write containers' files, and compose.yaml with the old lines of the names in `kept`.

        files_kept: keys whose files stay as they are.
        """
        self.kept = set(kept)
        self.dockerd.write_files(self.data["files"], files_kept)
        self.dockerd.keep(self.dockerd.compose_file, self.text(self.kept))
        self.data["before"] = self.chosen(self.kept)
        for path in glob.glob(glob.escape(self.dockerd.next) + "*"):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def stale(self):
        """The entries that another run changed after this one was planned.

        The record and compose.yaml agree on a key in Compose that the plan does not know.
        """
        planned = {name: set(block["services"]) for name, block in self.data["before"].items()}
        return sorted(
            name
            for name, (key, _) in (services_of(self.dockerd.compose_file) or {}).items()
            if name in self.dockerd.ids and self.dockerd.key(name) == key not in planned.get(name, ())
        )

    def removed(self):
        """The entries of the plan that another run removed after it: neither the record nor compose.yaml has them."""
        found = services_of(self.dockerd.compose_file) or self.data["before"]
        gone = self.data["before"].keys() & self.data["services"].keys() - found.keys() - self.dockerd.ids.keys()
        return sorted(gone)

    def follow(self, names):
        """Leave the lines of these entries as another run that changes them has them."""
        present = self.present()
        for lines in (self.data["before"], self.data["services"]):
            for name in names:
                lines.pop(name, None)
            lines.update({name: present[name] for name in names if name in present})

    def done(self, planned):
        """The entries that another run meanwhile changed as this one would.

        Their lines are the present ones from now on. planned: name → digest of the definition that this run is to
        create.
        """
        found = ((record.load() or {}).get("containers") or {}).get(self.dockerd.user, {})
        names = []
        for name in self.stale():
            new = self.data["services"].get(name)
            same = name in planned and found.get(name, {}).get("definition") == planned[name]
            if new and same and self.dockerd.key(name) in new["services"]:
                self.data["before"][name] = new
                names.append(name)
        return names

    def intact(self):
        """Is compose.yaml as this run left it? Another run may have changed it while no lock was held."""
        try:
            with open(self.dockerd.compose_file, encoding="utf-8") as stream:
                return stream.read() == self.text(self.kept)
        except OSError:
            return False

    def present(self):
        """Name → lines of compose.yaml as it is: other runs change their entries while this one holds no lock."""
        found = blocks_of(self.dockerd.compose_file)
        return self.chosen(self.kept) if found is None else found

    def changed(self, names):
        """The text of compose.yaml as it is with the changes of these names."""
        new = self.data["services"]
        found = {name: lines for name, lines in self.present().items() if name not in names}
        return self.assembled(dict(found, **{name: new[name] for name in names if name in new}))

    def create(self, key, batch, names):
        """Let Compose create the new container of this key beside the old one; it is not started.

        batch: the id of its change. names: what changes together. Returns (exit code, output).
        """
        path = "{}-{}".format(staged(self.dockerd, batch), key)
        self.dockerd.keep(path, self.changed(names))
        try:
            words = self.dockerd.compose("create", "--no-recreate", "--pull", "never", key, file=path)
            return self.dockerd.within(words)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def stage(self, batch, names):
        """Write compose.yaml as it is with the changes of these names, beside the current one. batch: their id."""
        self.dockerd.keep(staged(self.dockerd, batch), self.changed(names))

    def decided(self, names):
        """These changes are decided: their new lines are in compose.yaml from now on."""
        self.kept -= set(names)
        new, before = self.data["services"], self.data["before"]
        for name in names:
            before.pop(name, None)
        before.update({name: new[name] for name in names if name in new})

    def clean_up(self):
        """Remove the files that nothing uses any more: what should run does, and an unfinished change may."""
        listed = {key for lines in self.present().values() for key in lines["services"]}
        changes = record.replacing()
        members = [member for change in changes for member in change["members"]]
        changing = {member[word] for member in members for word in ("old_key", "new_key")}
        theirs = record.keys_of_changes(changes, self.dockerd.user)
        changing |= {key for key in self.dockerd.keys_with_files() if theirs.match(key)}
        files = {key: texts for key, texts in self.data["files"].items() if key in listed - changing}
        self.dockerd.remove_old_files(files, listed | changing)
