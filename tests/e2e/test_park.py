"""A decode worker whose pool does not hold what its streams grow to: some are set aside, and all end right."""
import concurrent.futures

from conftest import DEMO, client, serve
import sim_model

STREAMS, PROMPT, ANSWER = 36, 200, 700


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
