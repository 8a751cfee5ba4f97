"""The reference that the shared prefix must equal: every completion in a row of its own."""

from __future__ import annotations

import torch


def plain_distributions(mllm, rollout, temperature=1.0):
    """List of (L_i, vocabulary), each from a forward over [prompt | completion] alone."""
    result = []
    for tokens in rollout.tokens:
        prompt = rollout.prompt
        ids = torch.cat([prompt.input_ids, tokens])[None]
        steps = prompt.next_position + torch.arange(len(tokens))
        positions = torch.cat([prompt.position_ids, steps.expand(3, -1)], 1)[:, None]
        embeddings = mllm.embed_tokens(ids).clone()
        embeddings[0, : prompt.length] = prompt.embeddings
        # The 2-D mask takes transformers' own causal path, not ours.
        output = mllm.model(
            inputs_embeds=embeddings, position_ids=positions, attention_mask=torch.ones_like(ids)
        )
        logits = output.logits[0, prompt.length - 1 : -1] / temperature
        logits[:, mllm.banned_token_ids] = float("-inf")
        result.append(logits.log_softmax(-1))
    return result
