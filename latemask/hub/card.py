"""The model card of an export: README.md, with the front matter of the Hub.

It says what can be known from the export alone; of the data there is a digest,
no name and no path.
"""

import hashlib

from latemask.hub import extras
from latemask.runtime import console

_PURPOSES = {"Model": "feature-extraction", "ForMaskedLM": "fill-mask",
             "ForSequenceClassification": "text-classification",
             "ForTokenClassification": "token-classification",
             "ForQuestionAnswering": "question-answering"}
_START = '''import transformers
folder = "."  # Or wherever it lies.
'''
_LOAD = '''tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
encoder = transformers.AutoModel.from_pretrained(folder)
states = encoder(**tokenizer("A text.", return_tensors="pt")).last_hidden_state
'''
# How the class of a task is used.
_USE = {
    "ForSequenceClassification": '''\
classify = transformers.pipeline(
    "text-classification", model=folder{all_labels})
print(classify("A text."))
''',
    "ForTokenClassification": '''\
tag = transformers.pipeline(
    "token-classification", model=folder, aggregation_strategy="first")
print(tag("Words of a text."))
''',
    "ForQuestionAnswering": '''\
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder)
row = tokenizer("Who was it?", "It was somebody.", return_tensors="pt")
found = model(**row)
first, last = found.start_logits.argmax(), found.end_logits.argmax()
print(tokenizer.decode(row["input_ids"][0, first:last + 1]))
'''}
_FILL = '''fill = transformers.pipeline("fill-mask", model=folder{trust})
print(fill("A " + fill.tokenizer.mask_token + " text."))
'''
_FINE_TUNE = '''\
model = transformers.AutoModelForSequenceClassification.from_pretrained(
    folder, num_labels=2)
'''
_SENTENCE = '''import sentence_transformers
model = sentence_transformers.SentenceTransformer(".")
vectors = model.encode(["A text.", "Another one."])
'''


# A paragraph is one line there.
_METHOD = "\n".join([
    "## Method", "",
    "Liao et al. 2022, \"Mask More and Mask Later: Efficient Pre-training of "
    "Masked Language Models by Disentangling the [MASK] Token\", arXiv "
    "2211.04898; re-implemented in latemask (JAX and Flax). latemask.json and "
    "latemask.safetensors, which transformers passes over, let latemask read "
    "the whole model back.", ""])


def digest(text):
  """Returns the SHA-256 of a card, by which an edited one is known."""
  return hashlib.sha256(text.encode()).hexdigest()


def card(about, stock, tokenizer, cut_length, extra):
  """Returns the text of README.md.

  Args:
    about: the content of latemask.json.
    stock: the content of config.json.
    tokenizer: the model's.
    cut_length: tokens that the stock tokenizer cuts texts to, or None.
    extra: names of the files that were asked for (extras.py).
  """
  name, = stock["architectures"]
  kind = next(kind for kind in _PURPOSES if name.endswith(kind))
  has_code = extras.CODE in extra
  parts = [
      _front_matter("fill-mask" if has_code else _PURPOSES[kind], stock, extra),
      "# A masked language model of latemask\n",
      _what_it_is(about, kind),
      _sizes(about, stock, tokenizer, cut_length, kind),
      "## Load it\n", _python(_START + _how_to_use(kind, stock)),
      *_guess_words(about["model"], kind, has_code)]
  if "modules.json" in extra:
    parts += ["With sentence-transformers, the mean over the tokens of a "
              "text:\n", _python(_SENTENCE),
              "These are vectors of a model that guesses words. It was not "
              "trained to compare sentences.\n"]
  return "\n".join(parts + _fine_tune(kind) + [_METHOD])


def _front_matter(purpose, stock, extra):
  tags = ["latemask", "masked-language-modeling", stock["model_type"]]
  tags += ["custom_code"] * (extras.CODE in extra)
  tags += ["sentence-transformers"] * ("modules.json" in extra)
  return "\n".join(["---", "library_name: transformers",
                    f"pipeline_tag: {purpose}", "tags:",
                    *(f"- {tag}" for tag in tags), "---", ""])


def _what_it_is(about, kind):
  if kind in _USE:
    return "An encoder with a head for a task, fine-tuned.\n"
  layer, kept = about["model"]["insertion_layer"], about["encoder_layers"]
  text = "An encoder that was trained to guess hidden words. "
  if not layer:
    return text + "All of its layers have seen the masks.\n"
  return text + (
      f"In its last training the first {layer} of {about['model']['layers']} "
      "layers saw only the words that were not hidden; the masks joined behind "
      "them. " + ("So this encoder met no mask there.\n" if kept <= layer else
                  f"This encoder has {kept} layers: the last {kept - layer} "
                  "did meet them.\n"))


def _how_to_use(kind, stock):
  many = stock.get("problem_type") == "multi_label_classification"
  return _USE.get(kind, _LOAD).replace(
      "{all_labels}", ", top_k=None" * many)


def _sizes(about, stock, tokenizer, cut_length, kind):
  """Returns the table of what is known."""
  model, masking = about["model"], about["masking"] or {}
  rows = {
      "stock class": stock["architectures"][0],
      "layers of the encoder": about["encoder_layers"],
      # A head for a task stands on an encoder that was cut out.
      **({} if kind in _USE else {"layers of the language model":
          f"{model['layers']}, masks at layer {model['insertion_layer']}, "
          f"decoder {model['decoder']}"}),
      "width, heads, MLP":
          f"{model['width']}, {model['heads']}, {model['mlp']}",
      "positions": f"{model['max_length']}, of which {about['trained_length']} "
                   "were met in training",
      "tokenizer":
          f"{tokenizer.vocab_size:,} pieces; cuts "
          + (f"texts to {cut_length} tokens" if cut_length else "no texts")
          + f"; SHA-256 `{tokenizer.digest}`",
      "steps of its last training": _known(about["steps"], "{:,}"),
      "packed rows of its last training": _known(about["rows"], "SHA-256 `{}`"),
      **{f"masking.{key}": value for key, value in masking.items()}}
  return console.table([["what", "value"], *(
      [what, str(value)] for what, value in rows.items())])


def _known(value, form):
  return "not known" if value is None else form.format(value)


def _guess_words(model, kind, has_code):
  """Returns how it guesses words, or why it does not."""
  if kind == "ForMaskedLM":
    return [_python(_START + _FILL.format(trust=""))]
  if has_code:
    return [
        "To guess words, the late layers and the head are run by "
        f"{extras.CODE}, a file of this folder: `trust_remote_code=True` lets "
        "transformers run it.\n", _python(
            _START + _FILL.format(trust=", trust_remote_code=True"))]
  if kind != "Model":
    return []
  if not model["insertion_layer"]:
    return ["This folder holds the encoder alone. The head that guesses words "
            "is not in the stock class.\n"]
  return [
      "**The head that guesses words is not in the stock class.** A stock "
      "class meets the mask at its first layer, which this encoder did not, "
      "so `pipeline(\"fill-mask\")` answers with noise here. latemask guesses "
      "words with this folder (`python -m latemask.tools.fill_mask`), and "
      "`python -m latemask.tools.export --with_code` writes a folder that does "
      "so in transformers.\n"]


def _fine_tune(kind):
  if kind in _USE:
    return []
  return [
      "## Fine-tune it\n", "As any encoder of its class; the head is fresh:\n",
      _python(_START + _FINE_TUNE),
      "Or in JAX, on the tasks of GLUE: `python -m latemask.main --config "
      "configs/glue.py --config.init_from=FOLDER`.\n"]


def _python(text):
  return f"```python\n{text}```\n"
