"""Every part of the benchmark runs on what the code is today, at sizes that say nothing of speed."""

import json

import faiss

from benchmarks import retrieval


def test_every_part_runs(tmp_path, monkeypatch):
    written, pinned = tmp_path / "found.json", faiss.cvar.distance_compute_blas_threshold
    monkeypatch.setattr(faiss.cvar, "distance_compute_blas_threshold", pinned)
    monkeypatch.setattr(retrieval, "BATCHES", (1, 64))
    few = ["--items", "3000", "--queries", "100", "--dim", "16", "--k", "50", "--rounds", "1", "--exact"]
    monkeypatch.setattr("sys.argv", ["retrieval", *few, "--json", str(written)])
    retrieval.main()
    found = json.loads(written.read_text())
    assert found["table"]["ours"]["recall@50"] == found["table"]["ours"]["recall@100"] * 2 == 1
    assert found["table"]["ours"]["score error"] < 1e-5
    assert set(found["batches"]) == {"1", "64"}
    assert {one["short"] for one in found["filtered"].values()} == {0}
    assert found["growth"]["items"] > 0
    assert 0 < found["stage"]["share"] <= 1.1


def test_others_are_measured_beside_ours_as_far_as_they_are_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(faiss.cvar, "distance_compute_blas_threshold", faiss.cvar.distance_compute_blas_threshold)
    written = tmp_path / "found.json"
    few = ["--items", "20000", "--queries", "64", "--dim", "16", "--k", "20", "--rounds", "1", "--only", "table"]
    monkeypatch.setattr("sys.argv", ["retrieval", *few, "--json", str(written)])
    retrieval.main()
    table, said = json.loads(written.read_text())["table"], capsys.readouterr().out
    for name in retrieval.OTHERS:
        if name in table:
            assert 0.5 < table[name]["recall@20"] <= 1, name
        else:
            assert f"{name}: " in said, "what is missing is said, and how to get it"
    assert {"ours, lists of codes", "IVF-PQ, refined"} <= table.keys()
