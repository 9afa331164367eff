Feature: Priority
  All of interactive goes before batch; within a class the order is that of arrival.

  Background:
    Given the workstation "shared"

  Scenario: Interactive overtakes batch that came before it
    Given every slot of pool "narrow" is busy
    And Ada has submitted "batch" to pool "narrow"
      | priority   | batch |
      | max_tokens | 2     |
    And Bob has submitted "quick" to pool "narrow"
      | max_tokens | 1000 |
    When the slots of pool "narrow" become free
    Then "quick" becomes running
    And "batch" is queued now
    When "quick" is cancelled
    Then "batch" ends with length after 2 tokens

  Scenario: Within a class the first comes first
    Given every slot of pool "both" is busy
    And Ada has submitted "first" to pool "both"
      | max_tokens | 1000 |
    And Bob has submitted "second" to pool "both"
      | max_tokens | 1000 |
    And Cleo has submitted "third" to pool "both"
      | max_tokens | 1 |
    Then "third" has 2 before it
    When the slots of pool "both" become free
    Then "first" becomes running
    And "second" becomes running
    And "third" has 0 before it
    When "second" is cancelled
    Then "third" ends with length after 1 tokens
    And "first" is running now
