"""A tiny random chat model for tests and first tries: two Llama layers and a tokenizer of its own.

`python -m medgpt_ray.models.tiny DIRECTORY` writes it. Head size 32 is the smallest that vLLM's CPU
attention runs. It knows nothing: only what is trained on it.
"""

import sys
from pathlib import Path

TEXT = """\
The nurse measures the blood pressure before breakfast and writes it on the chart.
The patient takes one tablet with water in the morning and one tablet at night.
Ask about allergies before you give an antibiotic, and write the answer down.
A fever with a stiff neck needs a doctor now. Call for help and stay with the patient.
Wash your hands, wear gloves, clean the wound and cover it with a dry dressing.
Chest pain that spreads to the arm or the jaw is an emergency.
The dose depends on weight, age and kidney function: check all three.
Drink enough, rest, and come back in two days when it is not better.
Yes, no, never, always, often, rarely, today, tomorrow, left, right, high, low.
0 1 2 3 4 5 6 7 8 9 10 20 50 100 250 500 1000 mg ml kg per day per hour
"""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def write_tiny_model(directory: Path, seed: int = 0) -> Path:
    """Write an HF directory: hidden 64, 2 layers, 2 heads, 1 KV head, tied embeddings, ~100k
    weights.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        TEXT.splitlines(),
        trainers.BpeTrainer(
            vocab_size=512,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|pad|>", chat_template=CHAT_TEMPLATE
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=32,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


if __name__ == "__main__":
    print(write_tiny_model(Path(sys.argv[1])))
