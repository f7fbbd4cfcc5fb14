"""Fetching from a metrics provider in a separate process, over loopback."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmark_stages.rows import Row, seconds

STEP, DAY = 60, 86_400
END = 1_704_067_200 + 90 * DAY
# A provider in a separate process. It prepares its answers once, so each costs only the given delay.
PROVIDER = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
import grpc
from kforecast.metrics.proto import provider_pb2 as pb
delay = float(sys.argv[1])
made = {}
def query(request, context):
    time.sleep(delay)
    key = (request.start.seconds, request.end.seconds)
    if key not in made:
        response = pb.QueryResponse()
        points = response.series.add(labels={"pod": "a"}).points
        moments = range(key[0], key[1] + request.step.seconds, request.step.seconds)
        points.extend(pb.Point(timestamp=1000 * t, value=t % 86400 / 7) for t in moments)
        made[key] = response.SerializeToString()
    return made[key]
handler = grpc.unary_unary_rpc_method_handler(query, request_deserializer=pb.QueryRequest.FromString)
server = grpc.server(ThreadPoolExecutor(32))
service = "io.kapacitystack.metric.ProviderService"
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Query": handler}),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
"""


class Provider:
    """A metrics provider in a separate process, as a context manager that returns its address."""

    def __init__(self, delay: float) -> None:
        self.delay = delay

    def __enter__(self) -> str:
        command = [sys.executable, "-c", PROVIDER, str(self.delay)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        return f"localhost:{self.process.stdout.readline().strip()}"

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()


def targets(count: int, days: int) -> list[dict[str, object]]:
    return [
        {
            "workloadNamespace": "shop",
            "workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"web-{number}"},
            "historyLength": f"{days}D",
            "metrics": [{"type": "Resource", "resource": {"name": "cpu"}}],
        }
        for number in range(count)
    ]


def fetch() -> list[Row]:
    """200 targets x 7 days at 60 s: kforecast against one channel per query, one after another."""
    import grpc
    import numpy as np
    import pandas as pd

    from kforecast.data.panel import Panel
    from kforecast.metrics.kapacity import KapacitySource
    from kforecast.metrics.proto import provider_pb2 as pb
    from kforecast.metrics.proto import provider_pb2_grpc as pb_grpc
    from kforecast.window import Frequency

    frequency = Frequency.parse("10min")

    def ours(address: str) -> pd.DataFrame:
        return KapacitySource(address=address, targets=targets(200, 7), end=END).fetch()

    def plain(address: str, source: KapacitySource) -> pd.DataFrame:
        frames = []
        for question in source.questions(END):
            with grpc.insecure_channel(address) as channel:
                request = pb.QueryRequest(query=question.asked)
                request.start.seconds, request.end.seconds = question.range.start, question.range.end
                request.step.seconds = STEP
                series = pb_grpc.ProviderServiceStub(channel).Query(request).series[0]
            rows = [(point.timestamp // 1000, point.value) for point in series.points]
            frame = pd.DataFrame(rows, columns=["timestamp", "value"])
            frames.append(frame.assign(workload=question.workload, metric=question.metric))
        return pd.concat(frames, ignore_index=True)

    with Provider(delay=0.02) as address:
        source = KapacitySource(address=address, targets=targets(200, 7), end=END)
        equal = np.array_equal(ours(address)["value"], plain(address, source)["value"])
        times: dict[str, list[float]] = {"ours": [], "plain": []}
        for _ in range(3):
            times["ours"].append(seconds(lambda: ours(address)))
            times["plain"].append(seconds(lambda: plain(address, source)))
    mine, other = (statistics.median(times[name]) for name in ("ours", "plain"))
    with Provider(delay=0.0) as address:
        points = len(ours(address))
        cost = []
        for _ in range(3):
            begun = time.process_time()
            Panel.from_frame(ours(address), frequency)
            cost.append(time.process_time() - begun)
    what = "fetch, 200 targets x 7 days at 60 s over loopback, answers after 20 ms"
    return [
        Row(
            f"{what} ({'equal' if equal else 'DIFFERENT'} values)",
            f"{mine:.2f} s",
            f"{other:.2f} s, one channel a query, one after another",
            f"{other / mine:.1f} x",
        ),
        Row(
            "our own CPU time from received to panel",
            f"{1e6 * statistics.median(cost) / points:.2f} us a point",
        ),
    ]


def memory() -> list[Row]:
    """60 days x 20 series at 60 s: exactness, and the memory of the fetch."""
    script = """
import sys
from pathlib import Path
import numpy as np
from kforecast.metrics.kapacity import KapacitySource
sys.path.insert(0, sys.argv[2])
from benchmark_stages.fetching import END, targets
source = KapacitySource(address=sys.argv[1], targets=targets(20, 60), end=END)
def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
before = kilobytes("VmRSS")
frame = source.fetch()
grown = kilobytes("VmHWM") - before  # the peak, of this process alone
grid = np.arange(END - 60 * 86400, END + 60, 60)
exact = all(
    np.array_equal(rows["timestamp"], grid) and np.array_equal(rows["value"], grid % 86400 / 7)
    for _, rows in frame.groupby("workload", observed=True)
)
print(len(frame), grown, exact and frame["workload"].nunique() == 20)
"""
    with Provider(delay=0.0) as address, tempfile.TemporaryDirectory() as empty:
        command = [sys.executable, "-c", script, address, str(Path(__file__).resolve().parents[1])]
        done = subprocess.run(command, cwd=empty, capture_output=True, text=True, check=True)
    points, grown, exact = done.stdout.split()
    return [
        Row(
            f"fetch, 60 days x 20 series at 60 s: {int(points):,} points, exact: {exact}",
            f"resident memory grew by {int(grown) / 1024:.0f} MB",
        )
    ]
