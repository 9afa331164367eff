@slow
Feature: Full pools that make room
  A policy may give the place of a waiting batch task to a new one; who loses it is told.

  Background:
    Given the workstation "varied"

  Scenario: drop-lru gives the place of the batch task that waited longest to the new one
    Given every slot of pool "lru" is busy
    And Ada has submitted "old" to pool "lru"
      | priority | batch |
    When Bob submits "new" to pool "lru"
      | priority   | batch |
      | max_tokens | 2     |
    Then the answer is 202
    And "old" breaks with QUEUE_FULL_DROP_LRU
    And the "error" frame of "old" says
      | policy_label   | drop-lru |
      | retriable      | true     |
      | retry_after_ms | > 0      |
    And the status of "old" says
      | state | failed              |
      | error | QUEUE_FULL_DROP_LRU |
    When the slots of pool "lru" become free
    Then "new" ends with length after 2 tokens

  Scenario: drop-lru drops no interactive task, and says so
    Given every slot of pool "lru" is busy
    And Ada has submitted "first" to pool "lru"
    And Ada has submitted "second" to pool "lru"
    When Bob submits "third" to pool "lru"
    Then the answer is 429 QUEUE_FULL_DROP_LRU
    And the answer says
      | policy_label | drop-lru |
    And the answer says when to come back
    And "first" is queued now
    And "second" is queued now

  Scenario: shed-low-priority gives the place of a batch task to an interactive one only
    Given every slot of pool "shed" is busy
    And Ada has submitted "batch" to pool "shed"
      | priority | batch |
    When Ada submits "more batch" to pool "shed"
      | priority | batch |
    Then the answer is 429 ADMISSION_REJECT
    And the answer says
      | policy_label | shed-low-priority |
    And the answer says when to come back
    Given Bob has submitted "first" to pool "shed"
    When Bob submits "second" to pool "shed"
      | max_tokens | 2 |
    Then the answer is 202
    And "batch" breaks with ADMISSION_REJECT
    And the "error" frame of "batch" says
      | policy_label | shed-low-priority |
      | retriable    | true              |
