"""A small file of every format, shaped like the published ones.

Where a published file has what readers stumble over (a title in quotes, a null,
"N/A" for nothing, an id that is a number), so has the example.
"""

import json
from typing import Any

from wiki_dump import DumpPage, dump


def json_lines(*records: dict[str, Any]) -> bytes:
  """Records, one a line."""
  return b"".join(json.dumps(r).encode() + b"\n" for r in records)


BEIR_CORPUS = (
  {"_id": "d1", "title": "Aruba", "text": "Its capital is Oranjestad."},
  {"_id": "<dbpedia:Caf%C3%A9>", "text": "A café sells coffee."},
  {"_id": "d3", "title": "A title alone", "text": "", "metadata": {}},
)
BEIR_QUERIES = (
  {"_id": "q1", "text": "What is the capital of Aruba?", "metadata": {}},
  {"_id": "q2", "text": "What sells coffee?", "metadata": {"a": 1}},
  {"_id": "q3", "text": "Who is not judged?"},
)
FLASHRAG = (
  {
    "id": "test_0",
    "question": "who got the first nobel prize in physics?",
    "golden_answers": ["Wilhelm Conrad Röntgen"],
  },
  {
    "id": "test_1",
    "question": "when is the next deadpool movie?",
    "golden_answers": ["May 18, 2018", "2018"],
    "metadata": {"supporting_facts": {"title": ["Deadpool"], "sent_id": [0]}},
  },
)
FLASHRAG_CORPUS = (
  {"id": "0", "contents": '"Aaron"\nAaron Aaron ( or ; "Ahärôn") is a prophet'},
  {"id": "1", "contents": "Malta\nValletta is its capital.\nIt is small."},
  {"id": "2", "contents": "no title, one line"},
)
KILT = (
  {
    "id": "5ab6d",
    "input": "Which city is the capital of Aruba?",
    "output": [
      {
        "answer": "Oranjestad",
        "provenance": [
          {
            "wikipedia_id": "42",
            "title": "Aruba",
            "section": "Section::::Abstract.",
            "start_paragraph_id": 1,
            "start_character": 0,
            "end_paragraph_id": 2,
            "end_character": 10,
            "bleu_score": 0.5,
            "meta": {},
          }
        ],
      },
      {"answer": "Oranjestad, Aruba"},
      {"provenance": [{"wikipedia_id": "7", "title": "Playa"}]},
    ],
    "meta": {},
  },
  {"id": "test", "input": "A test question, which has no output"},
)
KILT_SOURCE = (
  {
    "_id": "42",
    "wikipedia_id": "42",
    "wikipedia_title": "Aruba",
    "text": [
      "Aruba\n",
      "Aruba is an island.\n",
      "Section::::History.\n",
      "BULLET::::- Its capital is Oranjestad.\n",
    ],
    "anchors": [{"text": "x", "href": "y", "paragraph_id": 1}],
    "categories": "Islands,Countries",
  },
)
POPQA = (
  b"id\tsubj\tprop\tobj\tsubj_id\ts_wiki_title\ts_pop\tquestion\t"
  b"possible_answers\n"
  b'4222362\tGeorge Rankin\toccupation\tcook\t1850297\tGeorge "Jo" R\t142\t'
  b"What is George Rankin's occupation?\t"
  b'"[""politician"", ""political leader"", ""caf\\u00e9""]"\n'
  b'3542855\t"John ""J"" M"\toccupation\tcook\t9\tJohn\t7\t'
  b'"What is John ""J"" M\'s occupation?"\t"[""cook""]"\n'
)
HOTPOTQA = (
  {
    "_id": "5a8b57f25542995d1e6f1371",
    "answer": "yes",
    "question": "Were Scott and Ed of the same nationality?",
    "supporting_facts": [["Scott D", 0], ["Ed Wood", 0], ["Scott D", 1]],
    "context": [
      ["Ed Wood", ["Ed was American.", " He made films."]],
      ["Tyler", ["Tyler is a place."]],
      ["Scott D", ["Scott is American.", " So he is."]],
    ],
    "type": "comparison",
    "level": "hard",
  },
  {
    "_id": "5a8b57f25542995d1e6f1372",
    "question": "A question of the test set",
    "context": [["Tyler", ["Tyler is a place."]]],
  },
)
MUSIQUE = (
  {
    "id": "2hop__482757_12019",
    "paragraphs": [
      {
        "idx": 0,
        "title": "Green",
        "paragraph_text": "Green is an album.",
        "is_supporting": True,
      },
      {
        "idx": 1,
        "title": "Green",
        "paragraph_text": "Green is a colour.",
        "is_supporting": False,
      },
    ],
    "question": "Who performed Green?",
    "question_decomposition": [],
    "answer": "Steve Hillage",
    "answer_aliases": ["Hillage"],
    "answerable": True,
  },
)
TEVATRON = (
  {
    "query_id": "1",
    "query": "What is the capital of Aruba?",
    "answers": ["Oranjestad"],
    "positive_passages": [
      {"docid": "7", "title": "Aruba", "text": "It is Oranjestad."}
    ],
    "negative_passages": [
      {"docid": "9", "title": "", "text": "It is Valletta."},
      {"docid": "8", "text": "It is Paris."},
    ],
  },
)
TEVATRON_CORPUS = (
  {"docid": 7, "title": "Aruba", "text": "It is Oranjestad."},
  {"docid": "8", "title": None, "text": "It is Paris."},
)
BRIGHT = (
  {
    "query": "Why are insects drawn to light?",
    "reasoning": "…",
    "id": "0",
    "excluded_ids": ["N/A"],
    "gold_ids_long": ["light/Phototaxis.txt"],
    "gold_ids": ["light/Phototaxis_3.txt", "light/Causation_1.txt"],
    "gold_answer": "N/A",
  },
  {
    "query": "Prove it.",
    "reasoning": "N/A",
    "id": "math_7",
    "excluded_ids": ["math_7", "math_8"],
    "gold_ids_long": ["N/A"],
    "gold_ids": ["math_9"],
    "gold_answer": "42",
  },
)
BRIGHT_DOCUMENTS = (
  {"id": "light/Phototaxis_3.txt", "content": "Phototaxis is\na movement."},
)

# The format's name -> a file of it.
EXAMPLES: dict[str, bytes] = {
  "beir": json_lines(*BEIR_QUERIES),
  "flashrag": json_lines(*FLASHRAG),
  "flashrag_corpus": json_lines(*FLASHRAG_CORPUS),
  "kilt": json_lines(*KILT),
  "kilt_source": json_lines(*KILT_SOURCE),
  "popqa": POPQA,
  "hotpotqa": json.dumps(HOTPOTQA).encode(),
  "musique": json_lines(*MUSIQUE),
  "tevatron": json_lines(*TEVATRON),
  "tevatron_corpus": json_lines(*TEVATRON_CORPUS),
  "bright": json_lines(*BRIGHT),
  "bright_long": json_lines(*BRIGHT),
  "bright_documents": json_lines(*BRIGHT_DOCUMENTS),
  "plain_text": b"what is the capital of aruba\nWho sings (and why), 1999?\n",
  "msmarco": b"1048585\twhat is paula deen's brother\n2\tandrogen\n",
  "squad": json.dumps(
    {
      "version": "1.1",
      "data": [
        {
          "title": "Some_Title",
          "paragraphs": [
            {
              "context": "Words of a paragraph.",
              "qas": [
                {
                  "id": "56be",
                  "question": "Of what?",
                  "answers": [{"text": "a paragraph", "answer_start": 9}],
                }
              ],
            }
          ],
        }
      ],
    }
  ).encode(),
  "dpr_retriever": json.dumps(
    [
      {
        "dataset": "nq_train_psgs_w100",
        "question": "who?",
        "answers": ["she"],
        "positive_ctxs": [
          {"title": "t", "text": "she did", "passage_id": "7", "score": 1000}
        ],
        "negative_ctxs": [],
        "hard_negative_ctxs": [
          {"title": "t", "text": "he did", "psg_id": "wiki:8"}
        ],
      }
    ]
  ).encode(),
  "webquestions": json_lines(
    {"qId": "wqr0", "qText": "what is it?", "answers": ["it"]}
  ),
  "qed": json_lines(
    {
      "example_id": -79,
      "question_text": "who wrote it",
      "paragraph_text": "She wrote it.",
      "title_text": "It",
      "original_nq_answers": [[{"start": 0, "end": 3, "string": "She"}]],
    }
  ),
  "sentence_question": json_lines(
    {"sentence": "It is here .", "question": "Where is it ?"}
  ),
  "entity_questions": json_lines(
    {"relation": "P106", "question": "What does he do?", "answers": ["cook"]}
  ),
  "paragraph_question": json_lines(
    {
      "id": "1",
      "question": "q?",
      "answers": ["a"],
      "title": "t",
      "paragraph": 0,
    }
  ),
  "curated_trec": (
    b"1\tfactoid\tWhen is it?\t(1|2)\\d+\n2\tfactoid\tWho?\t.*x\n"
  ),
  "nq_open": json_lines({"question": "who?", "answer": ["she", "her"]}),
  "dpr_qas": b"who is it?\t['she', \"it's\"]\n",
  "wikipedia_dump": dump(
    [
      DumpPage("First", "The '''first''' page{{x}} of [[all|these]]."),
      DumpPage("Old", "#REDIRECT [[First]]", redirect="First"),
      DumpPage("Second", "And <ref>a note</ref> another."),
    ]
  ),
  "passages_jsonl": json_lines(
    {"id": "1", "title": "t", "text": "words"},
    {"id": "2", "title": "", "text": "more"},
  ),
  "passages_tsv": b"id\ttext\ttitle\n1\twords\tt\n",
  "passages_tsv_unquoted": b"id\ttext\ttitle\n1\twords\tt\n",
}
