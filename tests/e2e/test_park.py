"""A decode worker whose pool does not hold what its streams grow to: some are set aside, and all end right."""
import concurrent.futures

from conftest import DEMO, client, serve, wait_for
import sim_model

STREAMS, PROMPT, ANSWER = 36, 200, 700


def test_a_computed_prompt_waits_for_room_as_long_as_its_tier_allows(tmp_path, sim_range):
    """The hand-over's own limit counts from when there are blocks for it: a wait for them that is longer cost the prompt's
    work anew each time, and the stream after five."""
    profile, tiers = tmp_path / "profile.yaml", tmp_path / "tiers.yaml"
    profile.write_text("prefill_base_ms: 1\ndecode_base_ms: 20\nmax_context: 16384\n")
    tiers.write_text("tiers:\n  - {name: patient, ttft_ms: 60000, tbt_ms: 10000, on_miss: wait}\n")
    with serve(DEMO, "--backend", "sim", "--served-name", "sim", "--sim-profile", profile, "--config", tiers, "--kv-mib", 1,
               "--max-context", 16384, "--handover-timeout-s", 1, "--local-prefill=false") as s:
        def one(prompt, n):
            r = client(s).completions.create(model="sim", prompt=prompt, max_tokens=n,
                                             extra_body={"return_token_ids": True, "ignore_eos": True})
            assert r.choices[0].model_dump()["token_ids"] == sim_model.generate(prompt, n, *sim_range)

        long, short = ([300 + (i * 31 + k) % 900 for k in range(n)] for i, n in enumerate((12000, 6000)))
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            first = pool.submit(one, long, 400)  # 8 s, in three quarters of the room
            wait_for(lambda: any(v > 700 for k, v in s.metrics().items()
                                 if k.startswith("baton_kv_blocks{role=\"decode\"") and "owned" in k))
            second = pool.submit(one, short, 30)
            first.result(), second.result()
        assert s.settle()["baton_resumes_total"] == 0


def test_streams_that_outgrow_the_pool_are_set_aside_and_end_right(tmp_path, sim_range):
    """900 tokens of each of 36 streams are twice what 1 MiB holds (1,024 blocks of 16 tokens)."""
    profile = tmp_path / "profile.yaml"
    profile.write_text("prefill_base_ms: 1\ndecode_base_ms: 2\n")
    with serve(DEMO, "--backend", "sim", "--served-name", "sim", "--sim-profile", profile,
               "--prefill", 1, "--decode", 1, "--kv-mib", 1, "--max-batch", 64) as s:
        prompts = [[300 + (i * 31 + k) % 900 for k in range(PROMPT)] for i in range(STREAMS)]

        def one(i):
            tier = ("priority", "default", "flex")[i % 3]
            r = client(s).completions.create(
                model="sim", prompt=prompts[i], max_tokens=ANSWER,
                extra_body={"return_token_ids": True, "ignore_eos": True, "service_tier": tier})
            return r.choices[0].model_dump()["token_ids"]

        with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
            for i, ids in enumerate(pool.map(one, range(STREAMS))):
                assert ids == sim_model.generate(prompts[i], ANSWER, *sim_range), i
        m = s.settle()
        assert m['baton_worker_parks_total{role="decode",worker="decode-0"}'] > 0
        assert m['baton_worker_parked_requests{role="decode",worker="decode-0"}'] == 0
