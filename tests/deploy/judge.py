"""Reads YAML files, holds them against a schema, and prints their documents as JSON.

Usage: judge.py yaml|compose|kubernetes FILE...

Says what is wrong on the standard error stream and ends with 1. Reads only the
files that it is given.
"""

import json
import sys

import yaml

# The oldest version of Kubernetes that has what the manifests use, one that many run, a new one.
KUBERNETES = ["1.27", "1.32", "1.37"]


class Strict(yaml.SafeLoader):
    """YAML in which a key that is written twice is an error."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if key.value != "<<"]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {twice}", node.start_mark)
        return super().construct_mapping(node, deep)


def compose(_documents, text):
    from compose_spec import PyOptions

    read = PyOptions(apply_merge=True).from_yaml(text)
    read.validate()


def kubernetes(documents, _text):
    import kubernetes_validate

    for document in documents:
        if document["kind"] == "Kustomization":
            continue
        for version in KUBERNETES:
            kubernetes_validate.validate(document, version, strict=True)


JUDGES = {"yaml": lambda _documents, _text: None, "compose": compose, "kubernetes": kubernetes}


def main():
    judge, *paths = sys.argv[1:]
    found = []
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
            documents = [document for document in yaml.load_all(text, Strict) if document is not None]
            JUDGES[judge](documents, text)
        except Exception as error:  # whatever it is, it is wrong with that file
            where = "/".join(str(part) for part in getattr(error, "path", None) or [])
            sys.exit(f"{path}: {where} {getattr(error, 'message', None) or error}")
        found.extend(documents)
    json.dump(found, sys.stdout)


main()
