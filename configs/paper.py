"""3ML as publicly described (Figure 2 of arXiv 2211.04898).

  python -m latemask.main --config configs/paper.py --workdir runs/paper
  python -m latemask.main --config configs/paper.py:large --workdir runs/large

50 % of the tokens are targets, split 80 / 10 / 10 as in BERT: only literal
[MASK]s, 40 % of the tokens, leave the encoder. Two late layers over the whole
length. The paper's depths, steps and batch are not public: those of base.py.
Its layers stay RoBERTa's (pre-norm, learned positions, MLPs of 4 D), since the
paper's encoders are; those of base.py are ModernBERT's, which learn where these
do not: at size tiny, after 1,500 steps, learned positions are still on the
unigram plateau (0.1 nats below it, where rotary ones are 1.0 below).
"""

from configs import base


def get_config(size="base"):
  """Returns base.py with BERT's replacement noise."""
  config = base.get_config(size)
  config.masking.random_rate = 0.1
  config.masking.same_rate = 0.1
  config.model.architecture = "roberta_prenorm"
  config.model.mlp = 4 * config.model.width
  config.model.insertion = "scatter"
  return config
