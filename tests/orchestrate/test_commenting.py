"""One comment a report: found by its marker and its author, healed, never taken back by an older run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reprune.core.errors import AccessDenied, OrchestratorUnreachable
from reprune.core.http import Backoff, Service
from reprune.core.marker import Marker, marker_line, order_of, read_marker
from reprune.orchestrate.commenting import Intent, decide, settle
from reprune.orchestrate.forge import Check, Comment, Forge, Proposal, PullRequest
from reprune.orchestrate.github import GitHub
from reprune.orchestrate.gitlab import GitLab
from tests.forge_server import ME, ForgeServer, Pull, Request

KEY = "digits@ort-cpu"
QUICK = Backoff(first_s=0.001, longest_s=0.01, tries=4, give_up_s=100.0)


def body(order: tuple[int, ...], words: str = "text", key: str = KEY) -> str:
    marker = Marker(key=key, verdict="pass", head="a" * 40, order=order)
    return f"{marker_line(marker)}\n{words}\n"


def intent(order: tuple[int, ...], words: str = "text") -> Intent:
    return Intent(key=KEY, order=order, compose=lambda _: body(order, words))


def forge_of(server: ForgeServer, kind: str, **how: str) -> Forge:
    host = server.github if kind == "github" else server.gitlab
    service = Service(host=host, token_variable="FORGE_TOKEN", backoff=QUICK)
    if kind == "github":
        return GitHub(service=service, repository="them/model", **how)
    return GitLab(service=service, project="7", **how)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ForgeServer]:
    monkeypatch.setenv("FORGE_TOKEN", "secret-token")
    with ForgeServer() as started:
        yield started


@pytest.fixture(params=["github", "gitlab"])
def forge(request: pytest.FixtureRequest, server: ForgeServer) -> Forge:
    return forge_of(server, request.param)


def tell(forge: Forge, order: tuple[int, ...], words: str = "text") -> str:
    return settle(forge, 4, intent(order, words), pause=lambda _: None)


def test_created_then_updated_in_place(forge: Forge, server: ForgeServer) -> None:
    """The first run creates the comment; a later one says its words in the same comment."""
    assert tell(forge, (1, 1), "first") == "created"
    assert tell(forge, (2, 1), "second") == "updated"
    (said,) = server.bodies()
    assert said.rstrip() == body((2, 1), "second").rstrip()


def test_what_is_said_already_is_not_posted(forge: Forge, server: ForgeServer) -> None:
    """The same body again, with the line ends that a forge gives back, writes nothing."""
    tell(forge, (1, 1))
    wrote = [each for each in server.requests if each.method in ("POST", "PATCH", "PUT")]
    assert tell(forge, (1, 1)) == "same"
    after = [each for each in server.requests if each.method in ("POST", "PATCH", "PUT")]
    assert [e for e in after if e.path != "/graphql"] == [e for e in wrote if e.path != "/graphql"]


def test_an_older_run_never_overwrites_a_newer_one(forge: Forge, server: ForgeServer) -> None:
    """Not by run, and not by an attempt of the same run; whatever the order of their arrival."""
    tell(forge, (7, 2), "newest")
    assert tell(forge, (7, 1), "late") == "older"
    assert tell(forge, (6, 9), "later") == "older"
    assert ["newest" in each for each in server.bodies()] == [True]


def test_duplicates_are_healed(forge: Forge, server: ForgeServer) -> None:
    """The oldest stays and says what the newest run said; the others go."""
    first = server.comment(ME, body((1,), "one"))
    server.comment(ME, body((9,), "nine"))
    server.comment(ME, body((3,), "three"))
    assert tell(forge, (5,), "five") == "older"
    assert list(server.world.comments) == [first]
    assert "nine" in server.bodies()[0]


def test_two_runs_that_create_at_once_leave_one(forge: Forge, server: ForgeServer) -> None:
    """The other's comment appears between our look and our create; the second look heals it."""
    raced = []

    def before(request: Request) -> None:
        if request.method == "POST" and request.path.endswith(("/comments", "/notes")):
            raced or raced.append(server.comment(ME, body((8,), "theirs")))

    server.before = before
    assert tell(forge, (5,), "ours") == "older"
    (said,) = server.bodies()
    assert "theirs" in said


def test_a_create_whose_answer_is_lost_is_not_repeated(forge: Forge, server: ForgeServer) -> None:
    """The service did it and the answer got lost: the next look finds it."""
    path = "/comments" if isinstance(forge, GitHub) else "/notes"
    server.fail("POST", path, drop=True, done=True)
    assert tell(forge, (1,)) == "created"
    assert len(server.bodies()) == 1


@pytest.mark.parametrize("author", ["somebody", "github-actions", "github-actions[bot]x"])
def test_what_others_wrote_is_not_touched(forge: Forge, server: ForgeServer, author: str) -> None:
    """A marker copied by somebody else, with an order that nobody beats, changes nothing."""
    server.comment(author, body((10**17,), "forged"))
    quoted = server.comment(ME, f"> {body((9,), 'quoted')}")
    other = server.comment(ME, body((9,), "another model", key="other@ort-cpu"))
    assert tell(forge, (5,), "ours") == "created"
    assert tell(forge, (6,), "ours again") == "updated"
    assert len(server.world.comments) == 4
    assert "quoted" in server.world.comments[quoted]["body"]
    assert "another model" in server.world.comments[other]["body"]
    assert "forged" in server.bodies(author)[0]


def test_the_comment_is_found_on_a_later_page(forge: Forge, server: ForgeServer) -> None:
    """Among 250 comments ours is updated, wherever it stands."""
    for index in range(250):
        if index == 230:
            server.comment(ME, body((1,), "old"))
        server.comment("somebody", f"comment {index}")
    assert tell(forge, (2,), "new") == "updated"
    assert ["new" in each for each in server.bodies()] == [True]


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (429, (("Retry-After", "7"),), "slow down"),
        (403, (("Retry-After", "7"),), "You have exceeded a secondary rate limit"),
        (403, (("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "1")), "API rate limit"),
        (429, (("RateLimit-Remaining", "0"), ("RateLimit-Reset", "1")), "Retry later"),
        (502, (), "Bad gateway"),
    ],
)
def test_it_waits_as_long_as_it_is_asked_to(
    forge: Forge,
    server: ForgeServer,
    status: int,
    headers: tuple[tuple[str, str], ...],
    message: str,
) -> None:
    """Told to come again, it waits at least as long, and then posts."""
    pauses: list[float] = []
    path = "/comments" if isinstance(forge, GitHub) else "/notes"
    server.fail("POST", path, status=status, headers=headers, message=message)
    assert settle(forge, 4, intent((1,)), pause=pauses.append) == "created"
    assert len(pauses) == 1
    assert pauses[0] >= dict(headers).get("Retry-After", "0").isdecimal() * (
        7 if "Retry-After" in dict(headers) else 0
    )
    assert len(server.bodies()) == 1


def test_it_does_not_wait_for_an_hour(forge: Forge, server: ForgeServer) -> None:
    """Asked for more patience than it has, it gives up at once and says for how long it was asked."""
    server.fail("GET", "/4/", status=429, headers=(("Retry-After", "3600"),))
    pauses: list[float] = []
    with pytest.raises(OrchestratorUnreachable, match="3600 s"):
        settle(forge, 4, intent((1,)), pause=pauses.append)
    assert pauses == []


def test_a_secondary_limit_without_headers_is_waited_for(server: ForgeServer) -> None:
    """GitHub says it in words alone, with the status of a missing permission."""
    server.fail(
        "POST", "/comments", status=403, message="You have exceeded a secondary rate limit."
    )
    pauses: list[float] = []
    settle(forge_of(server, "github"), 4, intent((1,)), pause=pauses.append)
    assert pauses == [60.0]


def test_a_token_that_may_not_write_is_told_what_it_lacks(server: ForgeServer) -> None:
    """403 is not tried again, and the fix is the line to add to the workflow."""
    server.world.denied = ("/comments", "/notes")
    with pytest.raises(AccessDenied) as caught:
        tell(forge_of(server, "github"), (1,))
    assert "pull-requests: write" in caught.value.fix
    assert len(server.asked("POST", "/comments")) == 1
    with pytest.raises(AccessDenied) as caught:
        tell(forge_of(server, "gitlab"), (1,))
    assert "GITLAB_TOKEN" in caught.value.fix


def test_no_message_shows_the_token(
    forge: Forge, server: ForgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an error's words nor its cause have it, though the service echoes what it was given."""
    monkeypatch.setenv("FORGE_TOKEN", "wrong-token")
    with pytest.raises(AccessDenied) as caught:
        tell(forge, (1,))
    said = f"{caught.value} {caught.value.__cause__}"
    assert "wrong-token" not in said
    assert "***" in said


def check(conclusion: str = "success", order: str = "5.1") -> Check:
    return Check(
        name="reprune/digits",
        head="a" * 40,
        conclusion=conclusion,  # type: ignore[arg-type]
        title="told",
        summary="text",
        order=order,
    )


@pytest.mark.parametrize("conclusion", ["success", "failure", "action_required"])
def test_the_commit_has_its_check(forge: Forge, server: ForgeServer, conclusion: str) -> None:
    """GitHub knows the conclusion itself; a status knows success and failure, and says what is to do."""
    assert forge.conclude(check(conclusion))
    if isinstance(forge, GitHub):
        assert [each["conclusion"] for each in server.world.checks] == [conclusion]
        return
    (status,) = server.world.statuses
    assert status["state"] == ("success" if conclusion == "success" else "failed")
    assert status["description"].startswith("to do: ") == (conclusion == "action_required")


def test_an_older_run_does_not_conclude(server: ForgeServer) -> None:
    """The check of a newer run of the same commit stays."""
    github = forge_of(server, "github")
    assert github.conclude(check("failure", "7.2"))
    assert not github.conclude(check("success", "7.1"))
    assert github.conclude(check("success", "7.3"))
    assert [each["conclusion"] for each in server.world.checks] == ["failure", "success"]


def test_a_token_without_checks_makes_a_commit_status(server: ForgeServer) -> None:
    """A personal token may not make check runs; an undecided one is a failure there, never a success."""
    server.world.denied = ("/check-runs",)
    assert forge_of(server, "github").conclude(check("action_required"))
    (status,) = server.world.statuses
    assert (status["state"], status["context"]) == ("failure", "reprune/digits")


def test_a_pull_request_is_found_by_branch_owner_and_commit(
    forge: Forge, server: ForgeServer
) -> None:
    """A fork's branch of the same name is another one, though the filter is ignored."""
    server.world.pulls = [
        Pull(1, "feature", "b" * 40, owner="stranger"),
        Pull(2, "feature", "a" * 40),
        Pull(3, "other", "a" * 40),
    ]
    assert forge.find("feature", "them") == [PullRequest(number=2, head="a" * 40, base="main")]


def test_a_proposal_is_opened_once_and_then_refreshed(forge: Forge, server: ForgeServer) -> None:
    """The second proposal for a branch changes the words of the first pull request."""
    first = Proposal(branch="reprune/update", base="main", title="one", body="1")
    second = Proposal(branch="reprune/update", base="main", title="two", body="2")
    assert forge.open(first) == forge.open(second) == 1
    assert [(each.title, each.body) for each in server.world.pulls] == [("two", "2")]


def test_a_file_of_a_branch(forge: Forge, server: ForgeServer) -> None:
    """Decoded, or None where there is none."""
    server.world.files[("sub dir/policy.yaml", "main")] = b"\xffbytes"
    if isinstance(forge, GitLab):
        assert forge.file("sub dir/policy.yaml", "main") == b"\xffbytes"
    assert forge.file("policy.yaml", "main") is None


def test_a_server_of_ones_own_has_the_other_api_beside_it(server: ForgeServer) -> None:
    """Below /api/v3, who we are is asked at /api/graphql."""
    service = Service(host=f"{server.github}/api/v3", token_variable="FORGE_TOKEN", backoff=QUICK)
    with pytest.raises(AccessDenied):
        GitHub(service=service, repository="them/model").me()
    assert [each.path for each in server.requests] == ["/api/graphql"]


ORDERS = st.lists(st.integers(0, 5), min_size=0, max_size=3).map(tuple)
KEYS = st.sampled_from([KEY, "other@t"])
COMMENTS = st.lists(
    st.tuples(st.sampled_from([ME, "eve"]), ORDERS, KEYS, st.booleans()), max_size=8
)


def applied(comments: list[Comment], order: tuple[int, ...]) -> list[Comment]:
    """The comments after what was decided was done."""
    move = decide(comments, ME, intent(order, str(order)))
    there = {each.id: each for each in comments if each.id not in move.delete}
    if move.target is None:
        new = max(there, default=0) + 1
        there[new] = Comment(id=new, author=ME, body=move.body)
    elif move.body:
        there[move.target] = Comment(id=move.target, author=ME, body=move.body)
    return sorted(there.values(), key=lambda each: each.id)


def mine(comments: list[Comment]) -> list[Marker]:
    return [
        marker
        for each in comments
        if each.author == ME
        and (marker := read_marker(each.body)) is not None
        and marker.key == KEY
    ]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(COMMENTS, ORDERS)
def test_laws(rows: list[tuple[str, tuple[int, ...], str, bool]], order: tuple[int, ...]) -> None:
    """Afterwards one of ours is there, of the newest run; the rest is as it was; once more does nothing."""
    comments = [
        Comment(id=index, author=who, body=body(o, str(o), key) if marked else "words")
        for index, (who, o, key, marked) in enumerate(rows, 1)
    ]
    after = applied(comments, order)
    (said,) = mine(after)
    assert said.order == max([order, *(each.order for each in mine(comments))])
    others = [each for each in comments if not mine([each])]
    assert [each for each in after if not mine([each])] == others
    assert applied(after, order) == after


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(min_size=1), st.text(min_size=1), ORDERS, st.text())
def test_a_marker_reads_back(verdict: str, lock: str, order: tuple[int, ...], before: str) -> None:
    """Whatever the words are, the line is one HTML comment and says the same when it is read."""
    made = Marker(key=KEY, verdict=verdict, lock=lock, order=order, before=before)
    line = marker_line(made)
    assert "\n" not in line
    assert line.endswith(" -->")
    assert "--" not in line[4:-3]
    read = read_marker(f"{line}\nrest")
    assert read is not None
    assert read.order == order
    if not any(char in verdict + lock + before for char in "%@+") and verdict.isascii():
        assert read.verdict == verdict


@pytest.mark.parametrize("text", ["", "1.", "-1", "1.2.3.4.5", "x", "\u0661", "9" * 19])
def test_an_order_is_whole_numbers(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match=r"^"):
        order_of(text)
