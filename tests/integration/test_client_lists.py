"""The `slalom` command lists jobs and shows their tokens as they come."""

import json
import os

from tests.integration.slalom_site import ANSWER, EIGHT, Site


def test_jobs_are_listed_latest_first_by_what_is_asked(site: Site) -> None:
    mark = os.urandom(4).hex()
    ids = [site.submitted("--metadata", f"mark={mark}", "--tier", t) for t in ("batch", "premium")]
    site("wait", *ids)

    listed = site("list", "--metadata", f"mark={mark}", "--json")
    narrow = site("list", "--metadata", f"mark={mark}", "--tier", "batch", "--status", "succeeded")
    old = site("list", "--metadata", f"mark={mark}", "--older-than", "1h")
    young = site("list", "--metadata", f"mark={mark}", "--newer-than", "1h", "--limit", "1")

    assert [job["id"] for job in listed.jsons] == ids[::-1]
    assert [line.split()[:4] for line in narrow.lines] == [
        ["ID", "STATUS", "TIER", "QUEUE"],
        [ids[0], "succeeded", "batch", "low"],
    ]
    assert (old.status, old.out) == (0, "")
    assert young.lines[1].startswith(ids[1])
    assert "there may be more: --cursor " in young.err


def test_all_there_are_comes_page_by_page(site: Site) -> None:
    mark = os.urandom(4).hex()
    line = json.dumps({"prompt": "1+1=", "metadata": {"mark": mark}})
    ids = site("submit", "--jsonl", "-", stdin="\n".join([line] * 250)).lines

    everything = site("list", "--metadata", f"mark={mark}", "--all", "--json")

    assert len(ids) == 250
    assert {job["id"] for job in everything.jsons} == set(ids)
    assert everything.err == ""


def test_an_unknown_status_is_refused_with_those_there_are(site: Site) -> None:
    done = site("list", "--status", "lost")

    assert done.status == 3
    assert "status: " in done.err
    assert "succeeded" in done.err


def test_tokens_are_seen_as_they_come(site: Site) -> None:
    job = site("submit", "1+1=", "--stream", "--json", "--max-tokens", "20")

    told = [(line["event"], line["data"]) for line in job.jsons]
    chunks = [
        data["choices"][0]["text"] for event, data in told if event == "chunk" and data["choices"]
    ]
    *_, (last, whole) = told
    assert [data["status"] for event, data in told if event == "status"][-1] == "succeeded"
    assert len(chunks) > 1
    assert last == "job"
    assert "".join(chunks) == whole["output"]["text"]


def test_a_watch_that_comes_late_sees_the_whole(site: Site) -> None:
    job_id = site("submit", "1+1=", "--stream", *EIGHT, "--json").jsons[-1]["data"]["id"]

    watched = site("watch", job_id)

    assert (watched.status, watched.out) == (0, f"{ANSWER}\n")
