@slow
Feature: Sessions and budgets
  A session counts its turns and what it has used; it is refused before it has used too much.

  Background:
    Given the workstation "metered"

  Scenario: A session begins with its first task and tells what it has
    Given Ada has submitted "turn" to pool "small"
      | max_tokens | 4 |
    Then "turn" ends with length after 4 tokens
    When somebody asks GET "/v1/sessions/{session of Ada}"
    Then the answer is 200
    And the answer says
      | turns                    | 1       |
      | ttl_ms_remaining         | > 0     |
      | kv_bytes                 | 0       |
      | tokens_budget_remaining  | < 200   |
      | time_budget_remaining_ms | < 60000 |
      | cost_budget_remaining    | < 1     |

  Scenario: The turn over the limit ends the session; the next one begins another
    Given Ada has submitted "first" to pool "small"
      | max_tokens | 1 |
    And Ada has submitted "second" to pool "small"
      | max_tokens | 1 |
    And Ada has submitted "third" to pool "small"
      | max_tokens | 1 |
    When Ada submits "fourth" to pool "small"
      | max_tokens | 1 |
    Then the answer is 409 INVALID_PARAMS
    And the answer says
      | retriable | true |
    When somebody asks GET "/v1/sessions/{session of Ada}"
    Then the answer is 404 INVALID_PARAMS
    When "fourth" is sent again
    Then the answer is 202
    When somebody asks GET "/v1/sessions/{session of Ada}"
    Then the answer says
      | turns | 1 |

  Scenario: What is left of the budgets is told with each answer, and no task may pass it
    When Ada submits "large" to pool "small"
      | max_tokens | 100 |
    Then the answer is 202
    And the headers say
      | X-Budget-Tokens-Remaining  | < 100   |
      | X-Budget-Time-Remaining-Ms | < 60000 |
      | X-Budget-Cost-Remaining    | < 1     |
    And the "started" frame of "large" says
      | tokens_remaining | < 100 |
    When Ada submits "too large" to pool "small"
      | max_tokens | 100 |
    Then the answer is 400 INVALID_PARAMS
    And the answer says
      | message | holds "tokens left" |
    And "large" ends with length after 100 tokens

  Scenario: Another session has a budget of its own
    Given Ada has submitted "large" to pool "small"
      | max_tokens | 150 |
    When Bob submits "also large" to pool "small"
      | max_tokens | 150 |
    Then the answer is 202

  Scenario: A session is forgotten when it is told so, and when it is idle for long
    Given Ada has submitted "turn" to pool "small"
      | max_tokens | 1 |
    Then "turn" ends with length after 1 tokens
    When somebody asks DELETE "/v1/sessions/{session of Ada}"
    Then the answer is 204
    When somebody asks DELETE "/v1/sessions/{session of Ada}"
    Then the answer is 204
    When somebody asks GET "/v1/sessions/{session of Ada}"
    Then the answer is 404 INVALID_PARAMS
    Given the workstation "guarded"
    And Bob has submitted "last turn" to pool "both"
      | max_tokens | 1 |
    Then "last turn" ends with length after 1 tokens
    And the session of Bob is forgotten
