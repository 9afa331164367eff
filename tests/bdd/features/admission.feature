Feature: Admission
  A task is admitted with its place and its time, or it is refused before it is queued.

  Background:
    Given the workstation "shared"

  Scenario: A free slot takes a task at once
    When Ada submits "poem" to pool "both"
      | max_tokens | 4 |
    Then the answer is 202
    And the answer says
      | task_id            | {task poem}                    |
      | queue_position     | 0                              |
      | predicted_start_ms | 0                              |
      | pool_id            | both                           |
      | stream_url         | /v1/tasks/{task poem}/stream   |
    And "poem" ends with length after 4 tokens
    And the status of "poem" says
      | state         | ended |
      | tokens_out    | 4     |
      | finish_reason | length |

  Scenario: Two unlike GPUs work together, the one with more free memory first
    Given Ada has submitted "first" to pool "both"
      | max_tokens | 1000 |
    And Bob has submitted "second" to pool "both"
      | max_tokens | 1000 |
    Then "first" becomes running
    And "second" becomes running
    And the status of "first" says
      | replica_id | both:0 |
    And the status of "second" says
      | replica_id | both:1 |

  Scenario: Who has to wait is told the place and the time, and is told again in the stream
    Given every slot of pool "narrow" is busy
    When Ada submits "later" to pool "narrow"
      | max_tokens | 3 |
    Then the answer is 202
    And the answer says
      | queue_position         | 0    |
      | predicted_start_ms     | > 0  |
      | predicted_start_p90_ms | > 0  |
      | backoff_ms             | > 0  |
    And "later" is queued now
    And the "started" frame of "later" says
      | queue_position     | 0   |
      | predicted_start_ms | > 0 |
    When the slots of pool "narrow" become free
    Then "later" ends with length after 3 tokens

  Scenario: The same id with the same body is the same task, with another body a conflict
    Given Ada has submitted "once" to pool "both"
      | max_tokens | 5 |
    When "once" is sent again
    Then the answer is 202
    And the answer is the first one of "once"
    When "once" is sent again
      | max_tokens | 6 |
    Then the answer is 409 INVALID_PARAMS
    And "once" ends with length after 5 tokens

  Scenario Outline: What no pool could serve is refused before it is queued
    When Ada submits "wrong" to pool "both"
      | <field> | <value> |
    Then the answer is <answer>

    Examples:
      | field      | value      | answer               |
      | ctx        | 8193       | 400 INVALID_PARAMS   |
      | max_tokens | 1025       | 400 INVALID_PARAMS   |
      | model_ref  | mock:other | 503 POOL_UNAVAILABLE |
      | wishes     | 1          | 400 INVALID_PARAMS   |
      | priority   | high       | 400 INVALID_PARAMS   |

  Scenario: A deadline that cannot be met is refused
    Given every slot of pool "narrow" is busy
    When Ada submits "hurried" to pool "narrow"
      | deadline_ms | 100 |
    Then the answer is 400 DEADLINE_UNMET
    And pool "narrow" says
      | metrics.queue_depth.interactive | 0 |
