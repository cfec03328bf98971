"""The page and the API, asked without sockets."""

import asyncio
import json
from html.parser import HTMLParser

import httpx2
import pytest
from command_line import last_line, run

pytest.importorskip("starlette", reason="needs the extra `serve`")

from fake_system import HOSTILE, Fake
from small_parts import random_index
from small_reader import save_workdir, small_system
from starlette.testclient import TestClient

from odqa_jax.serving.opening import open_answering, warm_up
from odqa_jax.serving.system_folder import assemble
from odqa_jax.serving.views import pieces
from odqa_jax.serving.web.app import make_app
from odqa_jax.serving.web.asked import BODY_LIMIT, QUESTION_LIMIT
from odqa_jax.serving.web.metrics import Metrics
from odqa_jax.serving.web.server import allowed_hosts, bound_socket
from odqa_jax.serving.web.worker import Worker


def application(*systems, queue_size=64, batch_size=8, **options):
  metrics = Metrics()
  worker = Worker(
    systems, batch_size=batch_size, queue_size=queue_size, metrics=metrics
  )
  return make_app(worker, metrics, hosts=["testserver"], **options)


@pytest.fixture
def fake():
  return Fake()


@pytest.fixture
def client(fake):
  app = application(fake, examples=["who?", HOSTILE])
  with TestClient(app, raise_server_exceptions=False) as client:
    yield client


def test_get_and_post_answer_alike(client):
  got = client.get("/api/answer", params={"q": " capital of\n France "})
  posted = client.post("/api/answer", json={"q": "capital of France", "k": 5})
  assert got.status_code == posted.status_code == 200
  assert got.json() == posted.json()
  answer = got.json()
  assert answer["question"] == "capital of France"
  assert (answer["answer"], answer["marks"]) == ("Paris", [1])
  assert len(answer["passages"]) == 5


def test_search_and_passages(client):
  found = client.get("/api/search", params={"q": "x", "k": 3}).json()
  assert [p["id"] for p in found["passages"]] == ["0", "1", "2"]
  passage = client.get("/api/passage/2").json()
  assert passage["text"] == "Passage 2 says Paris."
  assert client.get("/api/passage/nothing").status_code == 404
  assert client.get("/api/passage/2?system=2").status_code == 400


def test_stages_are_told_as_lines(client):
  response = client.post("/api/answer", json={"q": "x", "stream": True})
  assert response.headers["content-type"].startswith("application/x-ndjson")
  stages = [json.loads(line) for line in response.text.splitlines()]
  assert [s["stage"] for s in stages] == ["retrieved", "answered"]
  assert "answer" not in stages[0] and stages[1]["answer"] == "Paris"


class Page(HTMLParser):
  """Tags with their attributes, and the text."""

  def __init__(self, html):
    super().__init__()
    self.tags, self.text = [], ""
    self.feed(html)

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))

  def handle_data(self, data):
    self.text += data


def check_page(html):
  """Nothing hostile has become a tag or an attribute."""
  page = Page(html)
  scripts = [a for tag, a in page.tags if tag == "script"]
  assert all(a == {"src": "/static/page.js", "defer": None} for a in scripts)
  for _, attributes in page.tags:
    assert not any(name.startswith("on") for name in attributes)
    for name in ("src", "href", "action"):
      assert attributes.get(name, "/").startswith(("/", "#"))
  return page


def test_hostile_text_stays_text(client, fake):
  fake.answered = HOSTILE
  page = check_page(client.get("/", params={"q": HOSTILE}).text)
  assert page.text.count("<script>alert(1)</script>") >= 4
  assert "{{ 7*7 }}" in page.text and "&amp;" in page.text
  (box,) = (a for _, a in page.tags if a.get("id") == "question")
  assert box["value"] == HOSTILE
  streamed = client.post("/results", json={"q": HOSTILE})
  for line in streamed.text.splitlines():
    check_page(json.loads(line)["html"])
  # The same in an error.
  check_page(client.get("/", params={"q": HOSTILE * 50}).text)


def test_marks_lead_to_their_passages(client):
  page = check_page(client.get("/", params={"q": "x"}).text)
  links = [a["href"] for _, a in page.tags if a.get("class") == "mark"]
  passages = [a["id"] for _, a in page.tags if a.get("class") == "passage"]
  assert links == ["#s1-1"]
  assert passages == [f"s1-{n}" for n in range(1, 6)]
  assert ("mark", {"class": "answer"}) in page.tags
  assert "confidence 75.0 %" in page.text
  assert "extractive reader" in page.text


def test_what_a_browser_may_do(client):
  for path in ("/", "/static/page.js", "/api/answer?q=x", "/nothing"):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers
  page = client.get("/").text
  assert "style=" not in page and "://" not in page


def test_the_static_files_ask_nobody_else(client):
  for name in ("page.js", "page.css", "icon.svg"):
    text = client.get(f"/static/{name}").text
    assert "://" not in text.replace("http://www.w3.org/2000/svg", "")
  assert client.get("/static/../app.py").status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", ""])
def test_a_foreign_host_is_refused(client, host):
  for path in ("/", "/api/answer?q=x", "/metrics"):
    assert client.get(path, headers={"host": host}).status_code == 400


def test_hosts_of_a_server():
  assert "[::1]" in allowed_hosts("127.0.0.1", [])
  assert {"10.0.0.7", "qa.example"} <= {
    *allowed_hosts("10.0.0.7", ["qa.example"])
  }
  assert "[fe80::1]" in allowed_hosts("fe80::1", [])
  assert "*" not in allowed_hosts("0.0.0.0", [])


@pytest.mark.parametrize("path", ["/api/answer", "/api/search", "/results"])
@pytest.mark.parametrize(
  ("sent", "status", "said"),
  [
    ({"q": "x" * 1_000_000}, 413, str(BODY_LIMIT)),
    ({"q": "x" * (QUESTION_LIMIT + 1)}, 400, str(QUESTION_LIMIT)),
    ({"q": "x", "k": 1_000_000_000}, 400, "choose from 1 to"),
    ({"q": "x", "k": 0}, 400, "choose from 1 to"),
    ({"q": "x", "k": "²"}, 400, "choose from 1 to"),
    ({"q": "x", "k": True}, 400, "choose from 1 to"),
    ({"q": "x", "k": 1.5}, 400, "choose from 1 to"),
    ({"q": "x", "system": 2}, 400, "choose from 1 to 1"),
    ({"q": " \n"}, 400, "ask a question"),
    ({"q": ["x"]}, 400, "ask a question"),
    ({}, 400, "ask a question"),
    ([], 400, "no JSON object"),
    ({"q": "x", "top": 1}, 400, "unknown"),
  ],
)  # fmt: skip
def test_what_is_out_of_bounds(client, fake, path, sent, status, said):
  response = client.post(path, json=sent)
  assert response.status_code == status
  assert said in response.json()["error"]
  assert not fake.batches


@pytest.mark.parametrize("body", [b"{", b"[" * 9000, b'{"q": "\\ud800"}'])
def test_what_is_no_question(client, body):
  headers = {"content-type": "application/json"}
  response = client.post("/api/answer", content=body, headers=headers)
  assert response.status_code == 400
  # A form of another site can send text, and no JSON.
  plain = client.post("/api/answer", content='{"q": "x"}')
  assert plain.status_code == 415


def test_a_failure_is_told_and_is_its_own(client, fake, caplog):
  failed = client.get("/api/answer", params={"q": "break"})
  assert failed.status_code == 500
  assert "secret" not in failed.text and "secret" in caplog.text
  assert client.get("/api/answer", params={"q": "x"}).status_code == 200


def run_async(app, function):
  """Runs a coroutine with a client of the application, without a server."""

  async def inner():
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with (
      app.router.lifespan_context(app),
      httpx2.AsyncClient(
        transport=transport, base_url="http://testserver"
      ) as client,
    ):
      return await function(client)

  return asyncio.run(inner())


async def until(condition):
  while not condition():
    await asyncio.sleep(0.005)


def test_many_at_once_are_answered_or_told_to_come_again(fake):
  app = application(fake, queue_size=16, batch_size=4)
  fake.gate.clear()

  async def ask_all(client):
    first = asyncio.create_task(client.get("/api/answer?q=first"))
    await until(lambda: fake.batches)
    others = [
      asyncio.create_task(client.get(f"/api/answer?q=question {i}"))
      for i in range(200)
    ]
    await until(lambda: sum(t.done() for t in others) == 200 - 16)
    metrics = (await client.get("/metrics")).text
    fake.gate.set()
    return await asyncio.gather(first, *others), metrics

  responses, metrics = run_async(app, ask_all)
  assert "odqa_queue_length 16.0" in metrics
  statuses = [r.status_code for r in responses]
  assert statuses.count(200) == 17 and statuses.count(503) == 184
  assert fake.batches == [1, 4, 4, 4, 4]
  for i, response in enumerate(responses[1:]):
    if response.status_code == 200:
      assert response.json()["question"] == f"question {i}"
    else:
      assert int(response.headers["retry-after"]) >= 1


def test_one_that_fails_leaves_those_beside_it_alone(fake):
  app = application(fake)
  fake.gate.clear()

  async def ask_all(client):
    first = asyncio.create_task(client.get("/api/answer?q=first"))
    await until(lambda: fake.batches)
    others = [
      asyncio.create_task(client.get(f"/api/answer?q={name}"))
      for name in ("good", "break", "fine")
    ]
    for _ in range(20):
      await asyncio.sleep(0.005)
    fake.gate.set()
    return await asyncio.gather(first, *others)

  responses = run_async(app, ask_all)
  assert [r.status_code for r in responses] == [200, 200, 500, 200]
  assert fake.batches[:2] == [1, 3]


def test_too_late_is_told_and_not_answered_for_nobody(fake):
  app = application(fake, seconds=0.2)
  fake.gate.clear()

  async def ask_all(client):
    first = asyncio.create_task(client.get("/api/answer?q=a"))
    await until(lambda: fake.batches)
    late = [await client.get("/api/answer?q=b"), await first]
    fake.gate.set()
    return late, await client.get("/api/answer?q=c")

  late, after = run_async(app, ask_all)
  assert [r.status_code for r in late] == [504, 504]
  assert after.status_code == 200
  # The second had left before its turn came.
  assert fake.batches == [1, 1]


def test_the_end_is_told_to_all_who_wait(fake):
  metrics = Metrics()
  worker = Worker([fake], batch_size=1, queue_size=8, metrics=metrics)
  app = make_app(worker, metrics, hosts=["testserver"])
  fake.gate.clear()

  async def ask_all(client):
    first = asyncio.create_task(client.get("/api/answer?q=a"))
    await until(lambda: fake.batches)
    waiting = asyncio.create_task(client.get("/api/answer?q=b"))
    await until(lambda: b"odqa_queue_length 1.0" in metrics.text())
    worker.dismiss(0.1)
    ended = await asyncio.gather(first, waiting, client.get("/api/answer?q=c"))
    fake.gate.set()
    return ended

  ended = run_async(app, ask_all)
  assert [r.status_code for r in ended] == [503, 503, 503]
  assert "ends" in ended[0].text and "ends" in ended[1].text


def test_metrics_of_requests_and_stages(client):
  client.get("/api/answer?q=x")
  client.get("/api/answer")
  client.get("/no/such/page")
  text = client.get("/metrics").text
  for line in (
    'odqa_requests_total{route="/api/answer",status="200"} 1.0',
    'odqa_requests_total{route="/api/answer",status="400"} 1.0',
    'odqa_requests_total{route="other",status="404"} 1.0',
    'odqa_stage_seconds_count{stage="retrieved"} 1.0',
    'odqa_stage_seconds_count{stage="answered"} 1.0',
    "odqa_queue_length 0.0",
  ):
    assert line in text


def test_the_description_names_every_route(client, fake):
  document = client.get("/api/openapi.json").json()
  assert document["openapi"].startswith("3.1")
  served = {route.path.replace(":path", "") for route in client.app.routes}
  assert {*document["paths"]} == served - {"/", "/results", "/static"}
  schemas = document["components"]["schemas"]
  answer = client.get("/api/answer?q=x").json()
  assert {*answer} <= {*schemas["Answer"]["properties"]}
  assert {*schemas["Answer"]["required"]} <= {*answer}
  assert {*answer["passages"][0]} == {*schemas["Passage"]["properties"]}
  fields = document["paths"]["/api/answer"]["get"]["parameters"]
  limits = {field["name"]: field["schema"] for field in fields}
  assert limits["k"]["maximum"] == fake.k
  assert limits["q"]["maxLength"] == QUESTION_LIMIT


def test_two_systems_side_by_side():
  app = application(Fake("one"), Fake("two", answered="Lyon"))
  with TestClient(app) as client:
    assert [
      client.get("/api/answer", params={"q": "x", "system": n}).json()["answer"]
      for n in (1, 2)
    ] == ["Paris", "Lyon"]
    page = check_page(client.get("/?q=x").text)
    ids = [a["id"] for _, a in page.tags if a.get("class") == "passage"]
    assert len(ids) == len({*ids}) == 10
    health = client.get("/healthz").json()
    assert [s["name"] for s in health["systems"]] == ["one", "two"]


def test_a_port_in_use_is_told():
  with bound_socket("127.0.0.1", 0) as bound:
    port = bound.getsockname()[1]
    # Nobody listens while programs are compiled.
    with pytest.raises(ValueError, match=f"--port {port}: is in use"):
      bound_socket("127.0.0.1", port)
  with pytest.raises(ValueError, match="--port 65536"):
    bound_socket("127.0.0.1", 65536)
  with pytest.raises(ValueError, match=r"--host 192\.0\.2\.1"):
    bound_socket("192.0.2.1", 0)


def test_a_text_is_cut_at_its_highlights():
  places = [
    {"start": 0, "end": 2, "answer": True},
    {"start": 3, "end": 4, "answer": False},
  ]
  cut = pieces("ab cd", places)
  assert cut == [("ab", "answer"), (" ", ""), ("c", "span"), ("d", "")]
  assert pieces("", []) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory, toy_data):
  """A system with a reader that writes."""
  root = tmp_path_factory.mktemp("system")
  system = small_system("individual", toy_data)
  save_workdir(system, root / "trained")
  random_index(system.retriever, system.corpus, root / "index")
  assemble(
    root / "system",
    {
      "retriever": root / "trained",
      "index": root / "index",
      "corpus": toy_data / "corpus",
    },
  )
  return root / "system"


@pytest.mark.slow
def test_the_api_answers_as_the_command_does(capsys, folder, toy_data):
  question = "what is the first thing"
  code, out, err = run(
    capsys, "answer", "--system", folder, "--question", question
  )
  assert code == 0, err
  wanted = json.loads(last_line(out))
  system = open_answering(folder)
  warm_up(system, 2)
  with TestClient(application(system)) as client:
    got = client.get("/api/answer", params={"q": question}).json()
    found = client.get("/api/search", params={"q": question, "k": 3}).json()
  assert got["answer"] == wanted["answer"]
  assert got["log_prob"] == pytest.approx(wanted["log_prob"], abs=1e-4)
  assert [c["answer"] for c in got["candidates"]] == [
    c["answer"] for c in wanted["candidates"]
  ]
  for mine, theirs in zip(got["passages"], wanted["passages"], strict=True):
    assert mine["id"] == theirs["id"] and mine["title"] == theirs["title"]
    assert mine["score"] == pytest.approx(theirs["score"], abs=1e-4)
    assert mine["prob"] == pytest.approx(theirs["prob"], abs=1e-4)
    row = system.corpus.find(mine["id"])
    assert mine["text"] == system.corpus.text(row)
  assert len(found["passages"]) == 3
  (both,) = {tuple(r["answer"] for r in system.answer([question] * 2))}
  assert both == (wanted["answer"],) * 2
