"""A stand-in for Kubernetes' API server, over TLS with a bearer token, in a thread of this process."""

import asyncio
import base64
import copy
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme
import yaml
from aiohttp import web

Manifest = dict[str, Any]
TOKEN = "the-token-of-the-pod"
PORTRAIT = "/apis/autoscaling.kapacitystack.io/v1alpha1/namespaces/shop/horizontalportraits/web-predictive"
CONFIG_MAPS = "/api/v1/namespaces/shop/configmaps"
RESULT = f"{CONFIG_MAPS}/web-predictive-result"


class ApiServer:
    """Objects by path.

    Attributes
    ----------
    objects:
        What GET answers; PUT needs the ``resourceVersion`` of the object that it replaces.
    requests:
        Method and path (with its query) of every request.
    failures:
        Statuses to answer, by method and path, the next one first.
    """

    def __init__(self, objects: dict[str, Manifest]) -> None:
        self.objects = objects
        self.requests: list[tuple[str, str]] = []
        self.failures: dict[tuple[str, str], list[int]] = {}
        self.authority = trustme.CA()
        self.url = ""
        self.versions = 100

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append((request.method, request.path_qs))
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.failed(401, "Unauthorized")
        if planned := self.failures.get((request.method, request.path)):
            return self.failed(planned.pop(0), "planned")
        if request.method == "GET":
            found = self.objects.get(request.path)
            return (
                self.failed(404, f"{request.path} not found") if found is None else web.json_response(found)
            )
        sent = await request.json()
        path = request.path
        if request.method == "POST":
            path = f"{path}/{sent['metadata']['name']}"
            if path in self.objects:
                return self.failed(409, "already exists")
        elif sent["metadata"]["resourceVersion"] != self.objects[path]["metadata"]["resourceVersion"]:
            return self.failed(409, "the object has been modified")
        self.store(path, sent)
        return web.json_response(self.objects[path], status=201 if request.method == "POST" else 200)

    def store(self, path: str, manifest: Manifest) -> None:
        self.versions += 1
        self.objects[path] = copy.deepcopy(manifest)
        self.objects[path]["metadata"]["resourceVersion"] = str(self.versions)

    @staticmethod
    def failed(status: int, message: str) -> web.Response:
        return web.json_response({"kind": "Status", "status": "Failure", "message": message}, status=status)

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Listen on a port of this machine; yield the URL."""
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert("localhost", "127.0.0.1").configure_cert(tls)
        loop, runner = asyncio.new_event_loop(), web.AppRunner(self.application())

        async def start() -> int:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
            await site.start()
            return int(runner.addresses[0][1])

        port = loop.run_until_complete(start())
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        self.url = f"https://127.0.0.1:{port}"
        try:
            yield self.url
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(60)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(60)
            loop.close()

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.answer)
        return application

    def kubeconfig(self, folder: Path, **user: Any) -> Path:
        """Write a kubeconfig of this server; without other credentials its user has the token."""
        authority = base64.b64encode(self.authority.cert_pem.bytes()).decode()
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "one", "user": "job"}}],
            "clusters": [
                {"name": "one", "cluster": {"server": self.url, "certificate-authority-data": authority}}
            ],
            "users": [{"name": "job", "user": user or {"token": TOKEN}}],
        }
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path


def portrait(**target: Any) -> Manifest:
    """A HorizontalPortrait of Deployment web, with a target of its resource."""
    target = target or {"type": "AverageValue", "averageValue": "500m"}
    described = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "web"}
    selector = {"matchLabels": {"code": "200"}}
    return {
        "apiVersion": "autoscaling.kapacitystack.io/v1alpha1",
        "kind": "HorizontalPortrait",
        "metadata": {"name": "web-predictive", "namespace": "shop", "uid": "a-b-c", "resourceVersion": "1"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": target}},
                {"type": "Pods", "pods": {"metric": {"name": "ready_pods"}, "target": {"type": "NA"}}},
                {
                    "name": "qps",
                    "type": "Object",
                    "object": {
                        "metric": {"name": "requests_rate", "selector": selector},
                        "describedObject": described,
                        "target": {"type": "NA"},
                    },
                },
            ],
            "portraitType": "Predictive",
            "algorithm": {"type": "ExternalJob", "externalJob": {"job": {"type": "CronJob"}}},
        },
    }
